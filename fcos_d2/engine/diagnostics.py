"""What losses do not show: where the positives are, how far the quality is from perfect."""

import torch
import torch.nn.functional as F
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn

from ..modeling.losses import FCOSLosses, ObservedBatch

__all__ = ["LogDiagnostics", "count_positives", "diagnose", "quality_loss_above_floor"]


def count_positives(observed: ObservedBatch, num_levels: int) -> Tensor:
    """Count the positive locations of each level: (L,) float32, from fine to coarse."""
    levels = observed.level_idxs[observed.is_positive]
    return levels.bincount(minlength=num_levels).float()


def quality_loss_above_floor(quality: Tensor, loss_quality: Tensor) -> Tensor:
    """
    Compute how much of a summed quality loss is avoidable.

    Binary cross entropy against a soft target is at least the entropy of the target: that is what
    perfect predictions are left with.

    Args:
        quality (Tensor): (C,) float32 targets from 0 to 1. Those of 0 or 1 have no entropy.
        loss_quality (Tensor): scalar, their binary cross entropies summed.

    Returns:
        Tensor: scalar of at least 0, up to rounding.
    """
    return loss_quality - F.binary_cross_entropy(quality, quality, reduction="sum")


class LogDiagnostics(HookBase):
    """
    Logs every 20 iterations, of the last batch of all processes:

    - ``fcos/positives_p3``, ...: positive locations of the level of stride 2^3, ...;
    - ``fcos/loss_fcos_ctr_above_floor`` (or ``..._iou_...``): the mean quality loss of positives
      less the mean entropy of their targets. Unlike the loss, it goes to 0.

    The model keeps the tensors and this hook reads them, so that only these iterations wait for the
    device. Must come before the writers. A model without FCOSLosses has nothing logged.
    """

    def __init__(self, model: nn.Module, period: int = 20) -> None:
        """
        Args:
            model (nn.Module): may be wrapped in DistributedDataParallel.
            period (int): iterations; 20 is that of detectron2's writers.
        """
        self._losses = next((x for x in model.modules() if isinstance(x, FCOSLosses)), None)
        self._period = period

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        is_due = next_iter % self._period == 0 or next_iter == self.trainer.max_iter
        if not is_due or self._losses is None or self._losses.observed is None:
            return
        values = diagnose(self._losses, self._losses.observed)
        if comm.is_main_process():
            self.trainer.storage.put_scalars(**values, smoothing_hint=False)


def diagnose(losses: FCOSLosses, observed: ObservedBatch) -> dict[str, float]:
    """Compute the scalars by name, of the batches of all processes: every process must call it."""
    positives = count_positives(observed, len(losses.levels))
    above_floor = quality_loss_above_floor(observed.quality, observed.loss_quality)
    totals = torch.cat([positives, above_floor[None]])
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(totals)
    *counts, excess = totals.tolist()
    levels = [stride.bit_length() - 1 for stride in losses.levels.strides]
    values = {f"fcos/positives_p{i}": x for i, x in zip(levels, counts, strict=True)}
    if losses.quality is not None:
        values[f"fcos/{losses.quality.loss_name}_above_floor"] = excess / max(sum(counts), 1)
    return values
