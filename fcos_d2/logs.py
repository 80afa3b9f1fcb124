"""Which loggers write where: the terminal, and the log file of a run."""

import logging
import sys

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from .errors import WithoutInputErrors

__all__ = ["log_to_terminal", "reset_loggers", "show_input_errors_in_files_only"]

# Those that detectron2's default_setup gives handlers, and our own.
_LOGGERS = ("fvcore", "detectron2", "fcos_d2")


def log_to_terminal() -> None:
    """Print what this package logs in the main process, and end the log file of an earlier run."""
    reset_loggers()
    setup_logger(name="fcos_d2", distributed_rank=comm.get_rank())


def reset_loggers() -> None:
    """
    Remove the handlers of an earlier run in this process: detectron2's ``setup_logger`` would add
    others to them, so that lines are printed twice, and also written to the earlier run's log.
    """
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            # setup_logger's are of this very class; others are somebody else's.
            if type(handler) is logging.StreamHandler:
                logger.removeHandler(handler)
    setup_logger.cache_clear()


def show_input_errors_in_files_only() -> None:
    """Keep the tracebacks of InputErrors out of the terminal, which shows their text at the end."""
    for name in _LOGGERS:
        for handler in logging.getLogger(name).handlers:
            if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):
                handler.addFilter(WithoutInputErrors())
