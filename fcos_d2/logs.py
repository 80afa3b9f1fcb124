"""Which loggers write where: the terminal, and the log file of a run."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from .errors import find_input_error

__all__ = ["log_to_file", "log_to_terminal", "own_handlers"]

# Those that detectron2's default_setup gives handlers, and our own.
_LOGGERS = ("fvcore", "detectron2", "fcos_d2")
_added: list[tuple[logging.Logger, logging.Handler]] = []  # by the run of this process


def log_to_terminal() -> None:
    """Print what this package logs in the main process, and end the log file of an earlier run."""
    with own_handlers():
        setup_logger(name="fcos_d2", distributed_rank=comm.get_rank())


def log_to_file(message: str) -> None:
    """Log the exception that is handled, with its traceback, to the log file of the run alone."""
    logging.getLogger("fcos_d2").error(message, exc_info=True, extra={"is_for_file": True})


@contextmanager
def own_handlers() -> Iterator[None]:
    """
    Replace the handlers of an earlier run in this process by those that the block adds.

    detectron2's ``setup_logger`` would add to them: each line would be printed twice, and be
    written to the earlier run's log too. On the terminal an InputError is shown by its text at the
    end, and its traceback is for the log file.
    """
    for logger, handler in _added:
        logger.removeHandler(handler)
    _added.clear()
    setup_logger.cache_clear()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [handler for logger in loggers for handler in logger.handlers]
    yield
    for logger in loggers:
        for handler in logger.handlers:
            if handler not in before:
                _added.append((logger, handler))
                if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):
                    handler.addFilter(_is_for_terminal)


def _is_for_terminal(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    is_input_error = error is not None and find_input_error(error) is not None
    return not (is_input_error or getattr(record, "is_for_file", False))
