"""Setup of logging to the terminal and to the log file of a run."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from .errors import find_input_error

__all__ = ["log_to_file", "log_to_terminal", "own_handlers"]

# The loggers that detectron2's default_setup adds handlers to, and our own.
_LOGGERS = ("fvcore", "detectron2", "fcos_d2")
# A warning of detectron2 about category ids other than 1 to K, which are as good as any.
_UNNEEDED = "We'll apply a mapping for you"
_added: list[tuple[logging.Logger, logging.Handler]] = []  # handlers of the current run


def log_to_terminal() -> None:
    """Print the log of this package in the main process, and close the log of an earlier run."""
    with own_handlers():
        setup_logger(name="fcos_d2", distributed_rank=comm.get_rank())


def log_to_file(message: str) -> None:
    """Log the exception that is being handled, with its traceback, only to the run's log file."""
    logging.getLogger("fcos_d2").error(message, exc_info=True, extra={"is_for_file": True})


@contextmanager
def own_handlers() -> Iterator[None]:
    """
    Replace the handlers of an earlier run in this process by those that the block adds.

    Otherwise, detectron2's ``setup_logger`` would keep the old handlers: each line would be printed
    twice, and would also be written to the log of the earlier run. Tracebacks of InputErrors are
    written only to the log file, because the command prints the text of the error when it ends.
    A warning of detectron2's loader that needs no action is not logged.
    """
    for logger, handler in _added:
        logger.removeHandler(handler)
    _added.clear()
    setup_logger.cache_clear()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    logging.getLogger("detectron2.data.datasets.coco").addFilter(_is_needed)
    before = [handler for logger in loggers for handler in logger.handlers]
    yield
    for logger in loggers:
        for handler in logger.handlers:
            if handler not in before:
                _added.append((logger, handler))
                if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):
                    handler.addFilter(_is_for_terminal)


def _is_needed(record: logging.LogRecord) -> bool:
    """Decide whether a log record of detectron2's loader says anything of use."""
    return _UNNEEDED not in record.getMessage()


def _is_for_terminal(record: logging.LogRecord) -> bool:
    """Decide whether a log record is printed; tracebacks of InputErrors are not."""
    error = record.exc_info[1] if record.exc_info else None
    is_input_error = error is not None and find_input_error(error) is not None
    return not (is_input_error or getattr(record, "is_for_file", False))
