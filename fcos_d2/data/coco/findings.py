"""Findings: what is unusual or wrong in an annotation file, counted by kind."""

import re
from collections.abc import Sequence
from os import PathLike
from typing import Any, NamedTuple

from ...errors import InputError

__all__ = ["Finding", "Kind", "agree", "finding_error", "make_finding", "short_repr"]


class Finding(NamedTuple):
    """
    Everything of one kind that was found in a dataset.

    Attributes:
        kind (str): A short name that stays the same between versions, such as "box_no_area".
        is_fatal (bool): Whether no training or evaluation can start.
        count (int): The number of entries.
        text (str): One complete message: what, how many, the first one, and what to do.
        entries (Sequence): The file's own ids of all entries; of images, their file names.
        file_name (str | None): The image of the first entry, as the annotation file names it.
        value: The value of the first entry that is wrong; None if there is none.
        file (str | None): The file with the fault; None for the annotation file.
    """

    kind: str
    is_fatal: bool
    count: int
    text: str
    entries: Sequence[Any] = ()
    file_name: str | None = None
    value: Any = None
    file: str | None = None


class Kind(NamedTuple):
    """
    A kind of findings.

    Attributes:
        name (str): ``Finding.kind``.
        text (str): What is found, for ``agree``, as it continues a number: "{box is|boxes are} ...".
        remedy (str): One or more sentences: what happens to such entries, or what to do.
        is_fatal (bool): ``Finding.is_fatal``.
    """

    name: str
    text: str
    remedy: str
    is_fatal: bool = False


def agree(text: str, count: int) -> str:
    """Choose between the forms of ``{singular|plural}`` in a text."""
    return re.sub(r"\{([^|{}]*)\|([^|{}]*)\}", lambda x: x[1 if count == 1 else 2], text)


def make_finding(
    kind: Kind,
    entries: Sequence[Any],
    first: str,
    *,
    total: int | None = None,
    file_name: str | None = None,
    value: Any = None,
) -> Finding:
    """
    Make the finding of a kind.

    Args:
        kind (Kind): The kind.
        entries (Sequence): See ``Finding``.
        first (str): The first entry and its value, such as "annotation 3 of '1.png': bbox = []".
        total (int): The number of entries that could have been found, for "8 of 16 boxes".
        file_name (str): See ``Finding``.
        value: See ``Finding``.
    """
    count = len(entries)
    number = f"{count}" if total is None else f"{count} of {total}"
    what = agree(kind.text, count if total is None else total)
    first = first if count == 1 else f"the first is {first}"
    text = f"{number} {what} ({first}). {kind.remedy}"
    return Finding(kind.name, kind.is_fatal, count, text, entries, file_name, value)


def finding_error(finding: Finding, json_file: str | PathLike[str]) -> InputError:
    """Return the error for a fatal finding in an annotation file."""
    return InputError(f"{json_file}: {finding.text}", file=finding.file or str(json_file))


def short_repr(value: Any, length: int = 100) -> str:
    """Return the repr of a value, truncated for messages."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
