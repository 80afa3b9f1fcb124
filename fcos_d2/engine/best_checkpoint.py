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

__all__ = ["KeepBest", "set_aside"]

logger = logging.getLogger(__name__)


def set_aside(file: Path) -> None:
    """Rename a checkpoint of an earlier run, such as to ``model_best_of_earlier_run.pth``."""
    os.replace(file, file.with_name(f"{file.stem}_of_earlier_run{file.suffix}"))


class KeepBest(HookBase):
    """
    Writes ``model_best.pth`` whenever an evaluation is better than all before.

    In place of detectron2's BestCheckpointer, which forgets the best value when training is resumed
    (the next model replaces the file, however bad), and which makes the file the one that training
    resumes from. Here the value stands in the file.
    """

    def __init__(self, period: int, model: nn.Module, output_dir: str, metric: str) -> None:
        """
        Args:
            period (int): that of the EvalHook, which must come before this hook.
            model (nn.Module): whose weights are saved; not wrapped in DistributedDataParallel.
            output_dir (str): where ``model_best.pth`` goes.
            metric (str): name in the event storage, such as "bbox/AP": higher is better. Of losses,
                "val_loss/..." and "ema/val_loss/...", lower is.
        """
        self._period = period
        self._model = model
        self._file = Path(output_dir) / "model_best.pth"
        self._metric = metric
        self._sign = -1.0 if "val_loss/" in metric else 1.0
        self._best = -self._sign * math.inf

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
        next_iter = self.trainer.iter + 1
        # The last evaluation is made after training, like EvalHook's.
        if next_iter % self._period == 0 and next_iter != self.trainer.max_iter:
            self._keep_if_better()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._keep_if_better()

    def _keep_if_better(self) -> None:
        if self._metric not in self.trainer.storage.latest():
            logger.warning(
                "FCOS_TRAIN.BEST_METRIC = %r: the evaluation gave no such value, so no best "
                "checkpoint is kept.", self._metric,
            )  # fmt: skip
            return
        value, iteration = self.trainer.storage.latest()[self._metric]
        if not self._sign * value > self._sign * self._best:  # nor NaN
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
