"""A training loop that a hook can end early."""

import logging
from contextlib import ExitStack

from detectron2.engine import TrainerBase
from detectron2.utils.events import EventStorage

__all__ = ["RunLoop"]

# detectron2's logger, so that the log lines look the same.
logger = logging.getLogger("detectron2.engine.train_loop")


class RunLoop(TrainerBase):
    """
    The loop of detectron2's TrainerBase, with three differences.

    - A hook can end training after the current iteration by lowering ``trainer.max_iter``.
    - After the last iteration, the loop calls the method ``after_last_step`` of the hooks that have
      one. ``trainer.iter`` is still the last iteration then, so a checkpoint saved there resumes
      at the right place.
    - ``after_train`` of all hooks is called, even if one of them raises an exception.

    As in TrainerBase, ``trainer.iter`` equals ``trainer.max_iter`` in ``after_train`` if and only
    if training is complete.
    """

    def train(self, start_iter: int, max_iter: int) -> None:
        """
        Train from iteration ``start_iter`` to iteration ``max_iter`` - 1.

        Args:
            start_iter (int): The first iteration.
            max_iter (int): The iteration after the last one. If it equals ``start_iter``, no
                training step is run, but ``after_train`` of the hooks is still called. This
                includes the final evaluation.
        """
        logger.info("Starting training from iteration %d", start_iter)
        if start_iter >= max_iter:
            logger.warning(
                "This run is complete: its checkpoint is that of iteration %d, and training ends "
                "at iteration %d (SOLVER.MAX_ITER; in a LazyConfig train.max_iter). Nothing is "
                "trained; the weights are evaluated once more.",
                start_iter,
                max_iter,
            )
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < self.max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if self.iter + 1 >= self.max_iter:
                        self.after_last_step()
                    self.iter += 1
            except Exception:
                # Only the log file needs the traceback; Python prints it to the terminal.
                logger.exception("Exception during training:", extra={"is_for_file": True})
                raise
            finally:
                try:
                    self.end_workers()
                finally:
                    self.after_train()

    def end_workers(self) -> None:
        """
        End the workers of the data loader, if a subclass has any.

        The loop calls this method before ``after_train``, because ``after_train`` may take long or
        fail.
        """

    def after_last_step(self) -> None:
        """Call ``after_last_step`` of the hooks that have this method."""
        for hook in self._hooks:
            if hasattr(hook, "after_last_step"):
                hook.after_last_step()

    def after_train(self) -> None:
        """Call ``after_train`` of every hook, even if some of them raise exceptions."""
        self.storage.iter = self.iter
        with ExitStack() as stack:
            for hook in reversed(self._hooks):
                stack.callback(hook.after_train)
