"""The hook that evaluates the model during training."""

from collections.abc import Callable
from typing import Any

from detectron2.engine import TrainerBase, hooks

from .signals import Signals

__all__ = ["Evaluate", "is_evaluated_now"]


def is_evaluated_now(trainer: TrainerBase, period: int) -> bool:
    """
    Return whether the evaluation hook runs an evaluation after the current iteration.

    Hooks that use the results call this function in their ``after_step``.

    Args:
        trainer (TrainerBase): The trainer of the hooks.
        period (int): Iterations between evaluations; 0 means that there are none.
    """
    next_iter = trainer.iter + 1
    # After the last iteration the hook evaluates in after_train instead.
    return period > 0 and next_iter % period == 0 and next_iter != trainer.max_iter


class Evaluate(hooks.EvalHook):
    """
    The hook that evaluates, as detectron2's EvalHook, and lets a signal end an evaluation at once.

    The last evaluation is run only once, even if its result was the reason to end the training. It
    is not run after an exception.

    Args:
        eval_period (int): Iterations between evaluations; 0 evaluates only after the last
            iteration.
        function (Callable): Runs an evaluation and returns its results as nested dictionaries of
            numbers. It is called in every process.
        signals (Signals): The signals that the hooks share.
    """

    def __init__(
        self, eval_period: int, function: Callable[[], dict[str, Any]], signals: Signals
    ) -> None:
        super().__init__(eval_period, function)
        self._signals = signals
        self._num_iter_evaluated = 0

    def _do_eval(self) -> None:
        """Run an evaluation, which a signal can end."""
        with self._signals.end_at_once():
            super()._do_eval()

    def after_step(self) -> None:
        """Evaluate when the period is over."""
        if is_evaluated_now(self.trainer, self._period):
            self._do_eval()
            self._num_iter_evaluated = self.trainer.iter + 1

    def after_train(self) -> None:
        """Evaluate a complete training, unless that is already done."""
        is_complete = self.trainer.iter >= self.trainer.max_iter
        if is_complete and self._num_iter_evaluated != self.trainer.iter:
            self._do_eval()
        del self._func  # as EvalHook does: the function may refer to the trainer
