"""Ctrl-C and SIGTERM during training: a checkpoint is saved before the process ends."""

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
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from .checkpoints import INTERRUPTED_NAME

__all__ = [
    "EndAtSignal",
    "Interrupted",
    "Signals",
    "handled",
    "pass_on_signals",
    "signals_held_back",
]

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A signal to a group of processes reaches each of them directly and once more through the parent:
# signals within this many seconds are one.
_SAME_SIGNAL = 1.0


class Interrupted(SystemExit):
    """Ends the process with the exit code of its signal: 130 for SIGINT, 143 for SIGTERM."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


@contextmanager
def handled(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Install handlers of signals and put the earlier ones back; does nothing in other threads."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            # None: it was not installed from Python.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """
    Hold signals back from this thread, and for good from the processes that the block starts.

    For the start of data loader workers: a terminal sends Ctrl-C to them too, and a cluster
    SIGTERM, but only the process that trains decides when they end.
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
    SIGINT and SIGTERM, recorded until training can end. A second one ends the process at once.

    Attributes:
        received (int): the signal that this process got; None if there was none.
        agreed (int): the signal after which all processes end at the current iteration, or None.
        is_ending (bool): Interrupted has been raised.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.agreed: int | None = None
        self.is_ending = False
        self._raises = False
        self._time = 0.0
        self._pid = os.getpid()

    def handlers(self) -> dict[int, Callable[[int, FrameType | None], None]]:
        """Return handlers by signal. What is ignored stays so, as nohup and shells want it."""
        self._pid = os.getpid()
        return {x: self._record for x in _SIGNALS if signal.getsignal(x) is not signal.SIG_IGN}

    def _record(self, signum: int, frame: FrameType | None) -> None:
        is_fork = os.getpid() != self._pid
        if is_fork and signum == signal.SIGINT:
            return  # a worker of an evaluation, which ends with the main process
        now = time.monotonic()
        if is_fork or (self.received is not None and now - self._time > _SAME_SIGNAL):
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        if self.received is None:
            self.received, self._time = signum, now
        self._end_if_received()

    def _end_if_received(self) -> None:
        if self._raises and self.received is not None:
            raise Interrupted(self.received)

    def end(self, signum: int) -> None:
        """Raise Interrupted."""
        self.is_ending = True
        raise Interrupted(signum)

    @contextmanager
    def end_at_once(self) -> Iterator[None]:
        """
        In the main process, let a signal end the block, not only the iteration. Others go on: they
        may be waiting for each other, and end with the main process.
        """
        self._raises = comm.is_main_process()
        try:
            self._end_if_received()
            yield
            # Again: Python drops what is raised while a process is started.
            self._end_if_received()
        except Interrupted:
            self.is_ending = True
            raise
        finally:
            self._raises = False


class EndAtSignal(HookBase):
    """
    Saves ``model_interrupted.pth`` after the iteration in which a signal came and ends the process;
    ``--resume`` resumes from it. The file is removed when the next checkpoint is saved.

    Must be the last hook: the others then have done their part of the iteration, and the writers
    are closed when the processes end.
    """

    def __init__(self, signals: Signals, checkpointer: Any) -> None:
        """
        Args:
            signals (Signals): that the hooks share.
            checkpointer (Checkpointer): of training.
        """
        self._signals = signals
        self._checkpointer = checkpointer
        self._handling = ExitStack()

    def before_train(self) -> None:
        self._handling.enter_context(handled(self._signals.handlers()))

    def after_step(self) -> None:
        # After the last iteration model_final.pth is saved, and the evaluation ends at once.
        is_last = self.trainer.iter + 1 >= self.trainer.max_iter
        if self._signals.agreed is not None and not is_last:
            self._signals.end(self._signals.agreed)

    def after_train(self) -> None:
        try:
            if self._signals.is_ending:
                self._save()
        finally:
            self._handling.close()

    def _save(self) -> None:
        if comm.is_main_process():
            if self.trainer.iter < self.trainer.max_iter:
                self._checkpointer.save(INTERRUPTED_NAME, iteration=self.trainer.iter)
            logger.warning(
                "Interrupted: the checkpoint is %s, and --resume resumes from it.",
                Path(self._checkpointer.get_checkpoint_file()).absolute(),
            )
        if self._signals.agreed is not None:
            # The parent of several processes kills the others when one has ended.
            comm.synchronize()


@contextmanager
def pass_on_signals() -> Iterator[None]:
    """
    Leave it to the processes that the block starts and waits for to end at a signal.

    For the parent of detectron2's ``launch`` with several processes. Signals may reach it alone,
    and are forwarded; where a terminal sends Ctrl-C to all of them, the two count as one.

    Raises:
        Interrupted: the processes have ended after a signal.
    """
    received: list[int] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        for process in multiprocessing.active_children():
            if process.pid is not None:
                os.kill(process.pid, signum)

    # What is ignored stays so, as nohup and shells want it.
    heeded = [x for x in _SIGNALS if signal.getsignal(x) is not signal.SIG_IGN]
    try:
        with handled(dict.fromkeys(heeded, forward)):
            yield
    except ProcessExitedException as error:
        codes = {128 + signum: signum for signum in _SIGNALS}
        if not received and error.exit_code not in codes:
            raise
        raise Interrupted(received[0] if received else codes[error.exit_code]) from None
    if received:  # before training, where a process just ends
        raise Interrupted(received[0])
