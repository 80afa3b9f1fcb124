"""Statistics that the losses do not show: positives per level, and the avoidable quality loss."""

import torch
import torch.nn.functional as F
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn

from ..modeling.losses import FCOSLosses, ObservedBatch

__all__ = ["LogDiagnostics", "count_positives", "diagnose", "quality_loss_above_floor"]


def count_positives(observed: ObservedBatch, num_levels: int) -> Tensor:
    """Return the (L,) float32 numbers of positive locations of the levels, from fine to coarse."""
    levels = observed.level_idxs[observed.is_positive]
    return levels.bincount(minlength=num_levels).float()


def quality_loss_above_floor(quality: Tensor, loss_quality: Tensor) -> Tensor:
    """
    Compute the part of a summed quality loss that better predictions can avoid.

    The binary cross entropy against a soft target is never below the entropy of the target, which
    is the loss of a perfect prediction.

    Args:
        quality (Tensor): (C,) float32 targets from 0 to 1, of C (location, box) pairs. A target
            of exactly 0 or 1 has no entropy.
        loss_quality (Tensor): Scalar, the sum of the binary cross entropies against them.

    Returns:
        Tensor: Scalar, at least 0 up to rounding.
    """
    return loss_quality - F.binary_cross_entropy(quality, quality, reduction="sum")


class LogDiagnostics(HookBase):
    """
    The hook that logs statistics of the last batch of all processes every 20 iterations.

    - ``fcos/positives_p3``, ...: the number of positive locations of the level of stride 2^3, ...
    - ``fcos/loss_fcos_ctr_above_floor`` (or ``fcos/loss_fcos_iou_above_floor``): the mean quality
      loss of the positives minus the mean entropy of their targets. Unlike the loss, it can reach
      0.

    The model keeps the tensors and this hook reads them, so that only these iterations wait for the
    device. The hook must come before the writers. It logs nothing for a model without FCOSLosses.

    Args:
        model (nn.Module): The trained model; it may be wrapped in DistributedDataParallel.
        period (int): Iterations between two logs; the default is that of detectron2's writers.
    """

    def __init__(self, model: nn.Module, period: int = 20) -> None:
        self._losses = next((x for x in model.modules() if isinstance(x, FCOSLosses)), None)
        self._period = period

    def after_step(self) -> None:
        """Log the statistics when the period is over and after the last iteration."""
        next_iter = self.trainer.iter + 1
        is_due = next_iter % self._period == 0 or next_iter == self.trainer.max_iter
        if not is_due or self._losses is None or self._losses.observed is None:
            return
        values = diagnose(self._losses, self._losses.observed)
        if comm.is_main_process():
            self.trainer.storage.put_scalars(**values, smoothing_hint=False)


def diagnose(losses: FCOSLosses, observed: ObservedBatch) -> dict[str, float]:
    """
    Compute the logged scalars over the batches of all processes.

    Every process must call this function.

    Args:
        losses (FCOSLosses): The losses of the model.
        observed (ObservedBatch): Statistics of the last batch of this process.

    Returns:
        dict[str, float]: Scalars by logged name.
    """
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
