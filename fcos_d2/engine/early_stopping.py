"""Ending a training whose evaluations no longer improve."""

import logging
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from .best_checkpoint import is_better
from .evaluation_hook import is_evaluated_now

__all__ = ["EarlyStopping"]

logger = logging.getLogger(__name__)


class EarlyStopping(HookBase):
    """
    Ends training after a number of evaluations in a row without a new best.

    The state is saved in checkpoints: a run that is resumed continues to count, and one that had
    ended early ends again without another iteration. Must come after the evaluation, in every
    process, and needs the loop of ``run_loop.RunLoop``.
    """

    def __init__(self, eval_period: int, metric: str, patience: int) -> None:
        """
        Args:
            eval_period (int): iterations, that of the evaluation hook.
            metric (str): see ``best_checkpoint.KeepBest``.
            patience (int): evaluations, at least 1.
        """
        self._period = eval_period
        self._metric = metric
        self._patience = patience
        self._best: float | None = None
        self._num_without_best = 0

    def before_train(self) -> None:
        if self._num_without_best >= self._patience:
            self._end(self.trainer.start_iter)

    def after_step(self) -> None:
        if not is_evaluated_now(self.trainer, self._period):
            return
        # Only the main process has the results of an evaluation.
        value, _ = comm.all_gather(self.trainer.storage.latest().get(self._metric, (None, None)))[0]
        if value is None:
            return  # KeepBest warns
        if is_better(self._metric, value, self._best):
            self._best, self._num_without_best = float(value), 0
        else:
            self._num_without_best += 1
        if self._num_without_best >= self._patience:
            self._end(self.trainer.iter + 1)

    def _end(self, max_iter: int) -> None:
        logger.info(
            "Training ends early, at iteration %d: %d evaluations in a row found no better %s "
            "than %s.",
            max_iter,
            self._num_without_best,
            self._metric,
            self._best,
        )
        self.trainer.max_iter = max_iter

    def state_dict(self) -> dict[str, Any]:
        return {"best": {self._metric: self._best}, "num_without_best": self._num_without_best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._metric in state_dict["best"]:  # values of another one cannot be compared
            self._best = state_dict["best"][self._metric]
            self._num_without_best = state_dict["num_without_best"]
