"""Integer ids for the entries of annotation files, which may have any ids."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LARGEST_ID",
    "Numbering",
    "find_identical",
    "is_id",
    "number_annotations",
    "number_ids",
    "other_ids",
]

LARGEST_ID = 2**53  # A larger integer may change as a float, and results are arrays of floats.


class Numbering(NamedTuple):
    """
    The numbers of the ids of a list.

    Attributes:
        numbers (dict[str | int | float, int]): Number by the file's own id.
        by_text (dict[str, int]): Number by the id as a text, because annotations may refer to the
            image 1 as "1" or 1.0.
        is_own (bool): Whether all own ids are valid, so that the numbers are the ids.
    """

    numbers: dict[Any, int]
    by_text: dict[str, int]
    is_own: bool

    def look_up(self, ids: Sequence[Any]) -> NDArray[np.int64]:
        """Return the number of each id; -1 for unknown ones."""
        if bool not in set(map(type, ids)):  # True is equal to 1
            # An unknown id is no key, and a list cannot be one.
            with suppress(KeyError, TypeError):
                return np.fromiter(map(self.numbers.__getitem__, ids), np.int64, len(ids))
        return np.fromiter(map(self._look_up_one, ids), np.int64, len(ids))

    def _look_up_one(self, own_id: Any) -> int:
        """Return the number of an id by its text; -1 if it is unknown."""
        return self.by_text.get(_text(own_id), -1) if is_id(own_id) else -1


def is_id(value: Any) -> bool:
    """Check that a value of a JSON file can be an id: a number or a text."""
    return type(value) in (int, float, str)


def other_ids(own_ids: Mapping[int, Any]) -> dict[int, Any]:
    """Return the own ids by number that differ from the number in value or type."""
    return {n: own_id for n, own_id in own_ids.items() if type(own_id) is not int or own_id != n}


def _text(own_id: Any) -> str:
    """Return an id as a text, which is the same for 1, 1.0 and "1"."""
    is_whole = isinstance(own_id, float) and own_id.is_integer()
    return str(int(own_id)) if is_whole else str(own_id)


def number_ids(ids: Sequence[Any]) -> Numbering:
    """
    Give numbers to the ids of images or categories.

    Whole numbers keep their value, also as a float or a text. Other ids get the next free numbers,
    in the order of their texts.

    Args:
        ids (Sequence): Different ids, for which ``is_id`` holds.
    """
    if set(map(type, ids)) <= {int} and (not ids or (min(ids) >= 0 and max(ids) <= LARGEST_ID)):
        by_text = dict(zip(map(str, ids), ids, strict=True))
        return Numbering(dict(zip(ids, ids, strict=True)), by_text, is_own=True)
    texts = [_text(x) for x in ids]
    by_text = {x: int(x) for x in texts if _is_valid_number(x)}
    others = sorted(set(texts) - by_text.keys(), key=lambda x: (not _is_number(x), len(x), x))
    by_text |= _next_numbers(others, by_text.values())
    return Numbering({x: by_text[_text(x)] for x in ids}, by_text, is_own=False)


def _is_number(text: str) -> bool:
    """Check that a text is a whole number as Python writes it."""
    return text.isascii() and text.isdigit() and (text[0] != "0" or text == "0")


def _is_valid_number(text: str) -> bool:
    """Check that a text is a whole number that can be an id."""
    return _is_number(text) and len(text) <= len(str(LARGEST_ID)) and int(text) <= LARGEST_ID


def _next_numbers(keys: Iterable[Any], taken: Iterable[int]) -> dict[Any, int]:
    """Return numbers above all that are taken."""
    return {key: number for number, key in enumerate(keys, max(taken, default=0) + 1)}


def number_annotations(ids: Sequence[Any]) -> tuple[Mapping[int, int], dict[str, list[int]]]:
    """
    Give numbers to the annotations whose ids are not unique integers from 1.

    Args:
        ids (Sequence): The ids; None for a missing one.

    Returns:
        tuple[dict, dict]: The new number by row, and the rows of each fault: "missing", "zero",
        "repeated" or "other".
    """
    is_unique = set(map(type, ids)) <= {int} and len(set(ids)) == len(ids)
    if is_unique and (not ids or (min(ids) >= 1 and max(ids) <= LARGEST_ID)):
        return {}, {}
    if set(map(type, ids)) == {int} and min(ids) >= -(2**63) and max(ids) < 2**63:
        return _number_integers(np.array(ids, np.int64))
    numbers: dict[int, int] = {}
    faults: dict[str, list[int]] = {}
    taken: set[int] = set()
    without_number = []
    for row, own_id in enumerate(ids):
        text = _text(own_id) if is_id(own_id) else ""
        number = int(text) if _is_valid_number(text) else None
        if number and number not in taken:
            taken.add(number)
            if type(own_id) is int:
                continue
            numbers[row], fault = number, "other"
        else:
            without_number.append(row)
            fault = "missing" if own_id is None else "repeated" if number else "other"
            fault = "zero" if number == 0 else fault
        faults.setdefault(fault, []).append(row)
    return numbers | _next_numbers(without_number, taken), faults


def find_identical(entries: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the rows of the entries that have the id and the content of an earlier one."""
    counts = Counter(x["id"] for x in entries if is_id(x.get("id")))
    contents: set[str] = set()
    rows = []
    for row, entry in enumerate(entries):
        if is_id(entry.get("id")) and counts[entry["id"]] > 1:
            content = json.dumps(entry, sort_keys=True)
            if content in contents:
                rows.append(row)
            contents.add(content)
    return rows


def _number_integers(ids: NDArray[np.int64]) -> tuple[Mapping[int, int], dict[str, list[int]]]:
    """Return the result of ``number_annotations`` for integers, ten times as fast."""
    is_valid = (ids >= 1) & (ids <= LARGEST_ID)
    is_first = np.zeros(len(ids), bool)
    is_first[np.unique(ids, return_index=True)[1]] = True
    faults = {
        "zero": ids == 0,
        "repeated": is_valid & ~is_first,
        "other": ~is_valid & (ids != 0),
    }
    without_number = np.flatnonzero(~(is_valid & is_first)).tolist()
    rows = {fault: np.flatnonzero(where).tolist() for fault, where in faults.items()}
    highest = ids[is_valid].max(initial=0).item()
    return _next_numbers(without_number, [highest]), {x: y for x, y in rows.items() if y}
