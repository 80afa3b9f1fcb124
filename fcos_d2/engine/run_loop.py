"""The loop of training, which a hook can end early."""

import logging
from contextlib import ExitStack

from detectron2.engine import TrainerBase
from detectron2.utils.events import EventStorage

__all__ = ["RunLoop"]

# detectron2's, so that logs read as they do there.
logger = logging.getLogger("detectron2.engine.train_loop")


class RunLoop(TrainerBase):
    """
    TrainerBase's loop, with three differences:

    - a hook ends training after the current iteration by lowering ``trainer.max_iter``;
    - hooks that have a method ``after_last_step`` get it called once no iteration will follow, when
      ``trainer.iter`` is still the last one: what they save resumes at the right place;
    - ``after_train`` of all hooks is called, even if one of them raises.

    As in TrainerBase, ``trainer.iter`` equals ``trainer.max_iter`` in ``after_train`` if and only
    if training is complete.
    """

    def train(self, start_iter: int, max_iter: int) -> None:
        """
        Train from one iteration to another.

        Args:
            start_iter (int): the first iteration.
            max_iter (int): the one after the last. Equal to ``start_iter``: only what follows
                training is done, such as the last evaluation.
        """
        logger.info("Starting training from iteration %d", start_iter)
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
                # Python prints the traceback at the end.
                logger.exception("Exception during training:", extra={"is_for_file": True})
                raise
            finally:
                try:
                    self.end_workers()
                finally:
                    self.after_train()

    def end_workers(self) -> None:
        """End the workers of the data loader, before what may take long or fail."""

    def after_last_step(self) -> None:
        """Call the hooks that have this method."""
        for hook in self._hooks:
            if hasattr(hook, "after_last_step"):
                hook.after_last_step()

    def after_train(self) -> None:
        """Call that of every hook, in order; the first exception is raised when all are done."""
        self.storage.iter = self.iter
        with ExitStack() as stack:
            for hook in reversed(self._hooks):
                stack.callback(hook.after_train)
