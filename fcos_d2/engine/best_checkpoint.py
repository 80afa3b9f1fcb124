"""The hook that keeps the best weights of a training run, even if the run is resumed."""

import logging
import math
import os
from pathlib import Path

import torch
from detectron2.engine import HookBase
from torch import nn

from ..atomic_write import replacing
from ..checkpoint import read_checkpoint
from ..errors import listed
from .evaluation_hook import is_evaluated_now
from .metric_names import is_validation_loss

__all__ = ["KeepBest", "is_better", "set_aside"]

logger = logging.getLogger(__name__)


def set_aside(file: Path) -> None:
    """Rename a checkpoint of an earlier run, for example to ``model_best_of_earlier_run.pth``."""
    os.replace(file, file.with_name(f"{file.stem}_of_earlier_run{file.suffix}"))


def is_better(value: float, best: float | None, *, lower_is_better: bool) -> bool:
    """
    Return whether a value of a metric is better than the previous best value.

    Args:
        value (float): The new value. NaN is never better.
        best (float): The previous best value, or None if there is none.
        lower_is_better (bool): Whether the metric is a loss.
    """
    if best is None:
        return not math.isnan(value)
    return value < best if lower_is_better else value > best


class KeepBest(HookBase):
    """
    The hook that writes ``model_best.pth`` whenever an evaluation is better than all before it.

    This hook replaces detectron2's BestCheckpointer, which has two faults. It forgets the best
    value when a run is resumed, so the next model overwrites the file, even if the model is worse.
    And it makes ``--resume`` continue from the best checkpoint instead of the last one. This hook
    stores the best value in the file.

    Args:
        eval_period (int): Iterations between evaluations, as in the evaluation hook. The
            evaluation hook must come before this one.
        model (nn.Module): The model to save, not wrapped in DistributedDataParallel.
        output_dir (str): Folder of ``model_best.pth``.
        metric (str): Name in the event storage, such as "bbox/AP". Of losses on the test data
            (``metric_names.is_validation_loss``), the lowest value is the best.
    """

    def __init__(self, eval_period: int, model: nn.Module, output_dir: str, metric: str) -> None:
        self._period = eval_period
        self._model = model
        self._file = Path(output_dir) / "model_best.pth"
        self._metric = metric
        self._best: float | None = None

    def before_train(self) -> None:
        """Read the best value of a resumed run, or rename the file of an earlier run."""
        if not self._file.is_file():
            return
        if self.trainer.start_iter > 0:
            value = read_checkpoint(self._file).get(self._metric)
            if isinstance(value, (int, float)):
                self._best = float(value)
        else:
            # Otherwise this run would take the file for its own when it is resumed.
            set_aside(self._file)

    def after_step(self) -> None:
        """Save the model if the evaluation after this iteration is the best."""
        if is_evaluated_now(self.trainer, self._period):
            self._save_if_better()

    def after_train(self) -> None:
        """Save the model if the evaluation after the last iteration is the best."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._save_if_better()

    def _save_if_better(self) -> None:
        """Save the model if the value of the metric in the evaluation just made is the best."""
        values = self._read_evaluation()
        if not values:
            return  # there is no test set, or the evaluation has failed
        if self._metric not in values:
            logger.warning(
                "The evaluation results have no metric %r, so no best checkpoint is saved. They "
                "have: %s.",
                self._metric,
                listed(sorted(values), 20),
            )
            return
        value = values[self._metric]
        if math.isnan(value):
            logger.warning(
                "%s is NaN, so these weights are not compared with the best. The AP of a class or "
                "a size is NaN if the test set has no such object.",
                self._metric,
            )
        if not is_better(value, self._best, lower_is_better=is_validation_loss(self._metric)):
            return
        logger.info("%s = %.3f is the best so far. Saving %s", self._metric, value, self._file)
        self._best = float(value)
        content = {
            "model": self._model.state_dict(),
            self._metric: self._best,
            "iteration": self.trainer.iter,
        }
        with replacing(self._file) as temporary:
            torch.save(content, temporary)

    def _read_evaluation(self) -> dict[str, float]:
        """Return the metrics that an evaluation has logged at the current iteration."""
        return {
            name: value
            for name, (value, iteration) in self.trainer.storage.latest().items()
            if iteration == self.trainer.iter and "/" in name and not name.startswith("fcos/")
        }
