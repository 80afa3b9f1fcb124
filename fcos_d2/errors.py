"""The error for what a user can mend: a value, a file, a dataset."""

import difflib
import logging
from collections.abc import Iterable, Sequence

__all__ = ["InputError", "WithoutInputErrors", "listed", "nearest", "text_for_user"]


class InputError(ValueError):
    """
    What is wrong, where (key, file, value), and what to do about it.

    ``train_net.py`` and ``fcos-d2`` print its text and nothing else: a traceback would hide it.
    """


def text_for_user(error: BaseException) -> str | None:
    """
    The text of an InputError, also of one that came from a data loader's worker or from a process
    that was started: those arrive as the text of a traceback. None if the error is something else.
    """
    text = str(error)
    if "Traceback (most recent call last)" in text:
        _, name, inner = text.rpartition("InputError: ")
        return inner.strip() if name else None
    return text if isinstance(error, InputError) else None


class WithoutInputErrors(logging.Filter):
    """For detectron2's trainer, which logs the traceback of every error that passes through it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], InputError))


def nearest(name: str, known: Iterable[str]) -> str:
    """``Did you mean 'x'?``, with the most similar of the known names; "" if there are none."""
    known = list(known)
    longer = sorted(x for x in known if x.startswith(str(name)))  # only its end was forgotten
    matches = longer or difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
    return f"Did you mean {matches[0]!r}?" if matches else ""


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first of many names, and how many there are."""
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
