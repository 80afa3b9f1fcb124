"""Findings: what is unusual or wrong in an annotation file, counted by kind."""

import logging
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, NamedTuple

from ...errors import MOST_LINES, InputError, agree, count_words, short_repr

__all__ = [
    "Finding",
    "Kind",
    "check_findings",
    "finding_error",
    "make_entry_finding",
    "make_finding",
    "report",
    "reword",
]


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
        reason (str | None): Of the finding that no box can be used: the kind that is the reason;
            None if there are no boxes.
    """

    kind: str
    is_fatal: bool
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    text: str
    entries: Sequence[Any] = ()
    file_name: str | None = None
    value: Any = None
    file: str | None = None
    reason: str | None = None


class Kind(NamedTuple):
    """
    A kind of findings.

    Attributes:
        name (str): ``Finding.kind``.
        text (str): What is found, as it continues a number, with forms for ``agree``.
        remedy (str): One or more sentences: what happens to such entries, or what to do.
        is_fatal (bool): ``Finding.is_fatal``.
        field (str): The field of an entry that is shown; "" for none.
    """

    name: str
    text: str
    remedy: str
    is_fatal: bool = False
    field: str = ""


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
        first (str): The first entry, such as "annotation 3 of '1.png'".
        total (int): The number of entries that could have been found, for "8 of 16 boxes".
        file_name (str): See ``Finding``.
        value: See ``Finding``. It is shown if the kind has a field.
    """
    count = len(entries)
    number = f"{count}" if total is None else f"{count} of {total}"
    what = agree(kind.text, count if total is None else total)
    shown = f": {kind.field} = {short_repr(value)}" if kind.field else ""
    where = f"{'' if count == 1 else 'the first is '}{first}{shown}"
    text = f"{number} {what} ({where}). {agree(kind.remedy, count)}"
    return Finding(kind.name, kind.is_fatal, count, text, entries, file_name, value)


def reword(finding: Finding, kinds: Iterable[Kind], other: Kind) -> Finding:
    """Return a finding of one of these kinds in the words of another kind."""
    text = finding.text
    for kind in kinds:
        for number in (1, 2):  # singular and plural
            for old, new in ((kind.text, other.text), (kind.remedy, other.remedy)):
                text = text.replace(agree(old, number), agree(new, number))
    return finding._replace(text=text)


def make_entry_finding(
    kind: Kind, list_name: str, entries: Sequence[Any], rows: Sequence[int]
) -> Finding:
    """
    Make the finding of entries that are named by their positions, and the first one is shown whole.

    Args:
        kind (Kind): The kind.
        list_name (str): The list of the file, such as "images".
        entries (Sequence): All entries of the list.
        rows (Sequence[int]): The positions of the entries with the finding.
    """
    names = [f"{list_name}[{row}]" for row in rows]
    return make_finding(kind, names, f"{names[0]} = {short_repr(entries[rows[0]])}")


def finding_error(finding: Finding, json_file: str | PathLike[str]) -> InputError:
    """Return the error for a fatal finding in an annotation file."""
    return InputError(f"{json_file}: {finding.text}", file=finding.file or str(json_file))


def check_findings(
    findings: Iterable[Finding], json_file: str | PathLike[str], most_lines: int = MOST_LINES
) -> None:
    """Raise the fatal findings in an annotation file as one error with at most so many lines."""
    faults = [finding_error(x, json_file) for x in findings if x.is_fatal]
    if faults:
        raise InputError.of(faults, most_lines)


def report(
    findings: Iterable[Finding], json_file: str | PathLike[str], logger: logging.Logger
) -> None:
    """
    Report findings in an annotation file in at most 20 lines: log some, and raise the fatal ones.

    Args:
        findings (list[Finding]): The findings.
        json_file (str): The annotation file.
        logger (Logger): It gets the findings that are not fatal.

    Raises:
        InputError: If findings are fatal.
    """
    findings = list(findings)
    num_faults = sum(x.is_fatal for x in findings)
    lines = _warnings(findings, json_file, max(1, MOST_LINES - num_faults))
    for line in lines:
        logger.warning(line)
    check_findings(findings, json_file, MOST_LINES - len(lines))


def _warnings(
    findings: Iterable[Finding], json_file: str | PathLike[str], most_lines: int
) -> list[str]:
    """Return lines about findings that are not fatal; the last one counts the rest."""
    lines = [f"{json_file}: {x.text}" for x in findings if not x.is_fatal]
    if len(lines) <= most_lines:
        return lines
    rest = count_words(len(lines) - most_lines + 1, "more {finding is|findings are}")
    return [
        *lines[: most_lines - 1],
        f"{json_file}: {rest} listed by fcos-d2 check-dataset --json.",
    ]
