"""The hook that ends training when the evaluations stop improving."""

import logging
import math
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..errors import agree
from .best_checkpoint import is_better
from .evaluation_hook import is_evaluated_now
from .metric_names import is_validation_loss

__all__ = ["EarlyStopping"]

logger = logging.getLogger(__name__)


class EarlyStopping(HookBase):
    """
    The hook that ends training after a number of evaluations in a row without a new best.

    Evaluations whose metric is missing or NaN are not counted.

    Its state is saved in checkpoints. A resumed run continues counting, and a run that had ended
    early ends again without another iteration. The hook must come after the evaluation hook, must
    exist in every process, and needs the loop of ``run_loop.RunLoop``.

    Args:
        eval_period (int): Iterations between evaluations, as in the evaluation hook.
        metric (str): Name of the metric; see ``best_checkpoint.KeepBest``.
        patience (int): Number of evaluations without a new best, at least 1.
    """

    def __init__(self, eval_period: int, metric: str, patience: int) -> None:
        self._period = eval_period
        self._metric = metric
        self._patience = patience
        self._best: float | None = None
        self._num_without_best = 0

    def before_train(self) -> None:
        """End training at once if the resumed run had ended early."""
        if self._num_without_best >= self._patience:
            self._end(self.trainer.start_iter)

    def after_step(self) -> None:
        """Compare the latest evaluation with the best, and end training if the limit is reached."""
        if not is_evaluated_now(self.trainer, self._period):
            return
        # Only the main process has the results of an evaluation.
        value, _ = comm.all_gather(self.trainer.storage.latest().get(self._metric, (None, None)))[0]
        if value is None or math.isnan(value):
            return  # nothing can be compared; KeepBest logs a warning
        if is_better(value, self._best, lower_is_better=is_validation_loss(self._metric)):
            self._best, self._num_without_best = float(value), 0
        else:
            self._num_without_best += 1
        if self._num_without_best >= self._patience:
            self._end(self.trainer.iter + 1)

    def _end(self, max_iter: int) -> None:
        """End training at an iteration, and log why."""
        count = self._num_without_best
        logger.info(
            "Training ends early at iteration %d, because the last %s found no better %s than %s.",
            max_iter,
            agree(f"{{evaluation|{count} evaluations}}", count),
            self._metric,
            self._best,
        )
        self.trainer.max_iter = max_iter

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the number of evaluations since then."""
        return {"best": {self._metric: self._best}, "num_without_best": self._num_without_best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of a resumed run, unless it is that of another metric."""
        if self._metric in state_dict["best"]:
            self._best = state_dict["best"][self._metric]
            self._num_without_best = state_dict["num_without_best"]
