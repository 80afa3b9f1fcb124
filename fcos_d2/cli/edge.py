"""Conversion of exceptions to exit codes."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import find_input_error

__all__ = ["exit_on_input_error"]


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """
    Exit with ``error: text`` and code 1 if the block raises an InputError.

    The error may also come from a process that the block started. With the environment variable
    FCOS_D2_TRACEBACK=1, its traceback is printed too.

    Ctrl-C exits with code 130, as shells expect. All other exceptions keep their traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        input_error = find_input_error(error)
        if input_error is None:
            raise
        if os.environ.get("FCOS_D2_TRACEBACK") == "1":
            traceback.print_exception(error)
        raise SystemExit(f"error: {input_error.text}") from None
