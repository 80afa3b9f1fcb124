"""Keeping the best weights, across interruptions too."""

import logging
import math
import os
from pathlib import Path

import torch
from detectron2.engine import HookBase
from torch import nn

from ..atomic_write import replacing
from ..checkpoint import read_checkpoint
from .evaluation_hook import is_evaluated_now

__all__ = ["KeepBest", "is_better", "set_aside"]

logger = logging.getLogger(__name__)


def set_aside(file: Path) -> None:
    """Rename a checkpoint of an earlier run, such as to ``model_best_of_earlier_run.pth``."""
    os.replace(file, file.with_name(f"{file.stem}_of_earlier_run{file.suffix}"))


def is_better(metric: str, value: float, best: float | None) -> bool:
    """
    Whether a value of a metric is better than the best one before; NaN never is.

    Args:
        metric (str): of "val_loss/..." and "ema/val_loss/..." lower is better, of others higher.
        value (float): the new one.
        best (float): None if there is none.
    """
    if best is None:
        return not math.isnan(value)
    return value < best if "val_loss/" in metric else value > best


class KeepBest(HookBase):
    """
    Writes ``model_best.pth`` whenever an evaluation is better than all before.

    In place of detectron2's BestCheckpointer, which forgets the best value when training is resumed
    (the next model replaces the file, however bad), and which makes the file the one that training
    resumes from. Here the value is in the file.
    """

    def __init__(self, eval_period: int, model: nn.Module, output_dir: str, metric: str) -> None:
        """
        Args:
            eval_period (int): iterations, that of the evaluation hook, which must come before.
            model (nn.Module): whose weights are saved; not wrapped in DistributedDataParallel.
            output_dir (str): where ``model_best.pth`` goes.
            metric (str): name in the event storage, such as "bbox/AP", see ``is_better``.
        """
        self._period = eval_period
        self._model = model
        self._file = Path(output_dir) / "model_best.pth"
        self._metric = metric
        self._best: float | None = None

    def before_train(self) -> None:
        if not self._file.is_file():
            return
        if self.trainer.start_iter > 0:
            value = read_checkpoint(self._file).get(self._metric)
            if isinstance(value, (int, float)):
                self._best = float(value)
        else:
            # This run, should it be resumed, must not take it for its own.
            set_aside(self._file)

    def after_step(self) -> None:
        if is_evaluated_now(self.trainer, self._period):
            self._keep_if_better()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._keep_if_better()

    def _keep_if_better(self) -> None:
        if self._metric not in self.trainer.storage.latest():
            logger.warning(
                "The evaluation has no %r, which is the metric of the best checkpoint: none is "
                "kept.",
                self._metric,
            )
            return
        value, iteration = self.trainer.storage.latest()[self._metric]
        if not is_better(self._metric, value, self._best):
            return
        logger.info("%s = %.3f is the best so far: saving %s", self._metric, value, self._file)
        self._best = float(value)
        content = {
            "model": self._model.state_dict(),
            self._metric: self._best,
            "iteration": iteration,
        }
        with replacing(self._file) as temporary:
            torch.save(content, temporary)
