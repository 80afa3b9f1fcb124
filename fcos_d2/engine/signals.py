"""Handling of Ctrl-C and SIGTERM during training, so that a checkpoint is saved at the end."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from detectron2.engine import HookBase
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from torch.multiprocessing import ProcessExitedException

from .checkpoints import INTERRUPTED_NAME

__all__ = [
    "EndAtSignal",
    "Interrupted",
    "Signals",
    "block_signals",
    "forward_signals",
    "handle_signals",
]

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A signal to a group of processes reaches each of them directly and again through the parent.
# Signals within this many seconds count as one.
_SAME_SIGNAL_SECONDS = 1.0
_Handler = Callable[[int, FrameType | None], None]


class Interrupted(SystemExit):
    """The exception that ends the process with exit code 130 (SIGINT) or 143 (SIGTERM)."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


@contextmanager
def handle_signals(handlers: Mapping[int, _Handler | signal.Handlers]) -> Iterator[None]:
    """
    Install signal handlers for a block, and restore the previous ones after it.

    Does nothing outside the main thread.

    Args:
        handlers (Mapping): Handlers by signal number.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            # None means that the previous handler was not installed from Python.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


@contextmanager
def block_signals() -> Iterator[None]:
    """
    Block signals in this thread during a block, and permanently in processes started there.

    Data loader workers are started in such a block. A terminal also sends SIGINT to the workers,
    and a cluster also sends them SIGTERM, but only the training process must decide when they end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Signals:
    """
    The record of SIGINT and SIGTERM until training can end.

    A second signal ends the process at once.

    Attributes:
        received (int): The signal that this process received, or None.
        agreed (int): The signal after which all processes end at the current iteration, or None.
        is_ending (bool): Whether Interrupted has been raised.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.agreed: int | None = None
        self.is_ending = False
        self._raises = False  # whether a signal raises Interrupted at once
        self._time = 0.0
        self._pid = os.getpid()

    def handlers(self) -> dict[int, _Handler]:
        """Return the handlers by signal; signals that the process ignores have none."""
        self._pid = os.getpid()
        return dict.fromkeys(_find_signals_to_handle(), self._record)

    def _record(self, signum: int, frame: FrameType | None) -> None:
        """Record the first signal; let a later one end the process."""
        is_fork = os.getpid() != self._pid
        if is_fork and signum == signal.SIGINT:
            return  # a data loader worker of an evaluation, which ends with the main process
        now = time.monotonic()
        is_second = self.received is not None and now - self._time > _SAME_SIGNAL_SECONDS
        if is_fork or is_second:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        if self.received is None:
            self.received, self._time = signum, now
        self._end_if_received()

    def _end_if_received(self) -> None:
        """Raise Interrupted if a signal has arrived and must end the process at once."""
        if self._raises and self.received is not None:
            raise Interrupted(self.received)

    def end(self, signum: int) -> None:
        """Raise Interrupted for a signal."""
        self.is_ending = True
        raise Interrupted(signum)

    @contextmanager
    def end_at_once(self) -> Iterator[None]:
        """
        Let a signal end the block immediately, instead of after the iteration.

        This applies only to the main process. Other processes may be waiting for each other; they
        continue, and end together with the main process.
        """
        self._raises = comm.is_main_process()
        try:
            self._end_if_received()
            yield
            # Check again, because Python drops exceptions raised while a process is started.
            self._end_if_received()
        except Interrupted:
            self.is_ending = True
            raise
        finally:
            self._raises = False


class EndAtSignal(HookBase):
    """
    The hook that saves ``model_interrupted.pth`` after a signal and ends the process.

    The checkpoint is saved after the iteration in which the signal arrived. ``--resume`` resumes
    from it, and it is removed when the next checkpoint is saved.

    This must be the last hook. Then the other hooks have completed the iteration, and the writers
    are closed when the process ends.

    Args:
        signals (Signals): The signals that the hooks share.
        checkpointer (Checkpointer): Saves the model and the state of the trainer.
    """

    def __init__(self, signals: Signals, checkpointer: Checkpointer) -> None:
        self._signals = signals
        self._checkpointer = checkpointer
        self._handling = ExitStack()

    def before_train(self) -> None:
        """Install the signal handlers."""
        self._handling.enter_context(handle_signals(self._signals.handlers()))

    def after_step(self) -> None:
        """End training if the processes have agreed on a signal."""
        # After the last iteration, model_final.pth is saved first, and then the signal ends the
        # evaluation at once.
        is_last = self.trainer.iter + 1 >= self.trainer.max_iter
        if self._signals.agreed is not None and not is_last:
            self._signals.end(self._signals.agreed)

    def after_train(self) -> None:
        """Save the checkpoint after a signal, and restore the previous handlers."""
        try:
            if self._signals.is_ending:
                self._save()
        finally:
            self._handling.close()

    def _save(self) -> None:
        """Save the checkpoint in the main process, unless the final one has been saved."""
        if comm.is_main_process():
            if self.trainer.iter < self.trainer.max_iter:
                self._checkpointer.save(INTERRUPTED_NAME, iteration=self.trainer.iter)
            logger.warning(
                "The training was interrupted. Its checkpoint is %s; use --resume to continue.",
                Path(self._checkpointer.get_checkpoint_file()).absolute(),
            )
        if self._signals.agreed is not None:
            # Wait for the others, because the parent kills them when one process has ended.
            comm.synchronize()


@contextmanager
def forward_signals() -> Iterator[None]:
    """
    Forward signals to the processes that the block starts, and wait until these have ended.

    This is for the parent process of detectron2's ``launch``, which may be the only process that
    receives a signal. If a terminal sends Ctrl-C to all processes, they receive it twice and count
    it once.

    Raises:
        Interrupted: If the processes have ended because of a signal.
    """
    received: list[int] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        """Send the signal to the started processes."""
        received.append(signum)
        for process in multiprocessing.active_children():
            if process.pid is not None:
                os.kill(process.pid, signum)

    try:
        with handle_signals(dict.fromkeys(_find_signals_to_handle(), forward)):
            yield
    except ProcessExitedException as error:
        codes = {128 + signum: signum for signum in _SIGNALS}
        if not received and error.exit_code not in codes:
            raise
        raise Interrupted(received[0] if received else codes[error.exit_code]) from None
    if received:  # the processes ended before training, without an error
        raise Interrupted(received[0])


def _find_signals_to_handle() -> list[int]:
    """Return SIGINT and SIGTERM, except those that nohup or a shell has set to be ignored."""
    return [x for x in _SIGNALS if signal.getsignal(x) is not signal.SIG_IGN]
