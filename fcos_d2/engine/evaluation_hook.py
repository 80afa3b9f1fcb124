"""When a training is evaluated."""

from collections.abc import Callable
from typing import Any

from detectron2.engine import hooks

from .signals import Signals

__all__ = ["Evaluate", "is_evaluated_now"]


def is_evaluated_now(trainer: Any, period: int) -> bool:
    """
    Whether the evaluation hook evaluates in ``after_step`` of the current iteration.

    Args:
        trainer (TrainerBase): in ``after_step``.
        period (int): iterations; 0 never.
    """
    next_iter = trainer.iter + 1
    # After the last iteration it evaluates in after_train.
    return period > 0 and next_iter % period == 0 and next_iter != trainer.max_iter


class Evaluate(hooks.EvalHook):
    """
    detectron2's EvalHook, which a signal ends at once. The last evaluation is made once, also if
    it is what has ended the training, and not after an exception.
    """

    def __init__(
        self, eval_period: int, function: Callable[[], dict[str, Any]], signals: Signals
    ) -> None:
        """
        Args:
            eval_period (int): iterations; 0: only after the last.
            function: returns nested dictionaries of numbers; called in every process.
            signals (Signals): that the hooks share.
        """
        super().__init__(eval_period, function)
        self._signals = signals
        self._num_iter_evaluated = 0

    def _do_eval(self) -> None:
        with self._signals.end_at_once():
            super()._do_eval()

    def after_step(self) -> None:
        if is_evaluated_now(self.trainer, self._period):
            self._do_eval()
            self._num_iter_evaluated = self.trainer.iter + 1

    def after_train(self) -> None:
        is_complete = self.trainer.iter >= self.trainer.max_iter
        if is_complete and self._num_iter_evaluated != self.trainer.iter:
            self._do_eval()
        del self._func  # as EvalHook: it may refer to the trainer
