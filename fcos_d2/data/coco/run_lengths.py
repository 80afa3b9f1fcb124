"""
Run-length encodings of masks, as pycocotools writes them.

pycocotools does not check them: a damaged one makes it read and write beyond its memory. Nothing
here passes an encoding to it that was not checked.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_run_length_encoding", "read_run_lengths"]

_MOST_CHARACTERS = 7  # of one number: 5 bits each, for the 32 bits of a count and its difference
_LARGEST = 2**32 - 1


def is_run_length_encoding(segmentation: Mapping[str, Any]) -> bool:
    """Return whether a dict has the fields of a run-length encoding, compressed or not."""
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(size, list) or len(size) != 2 or not _are_counts(size) or 0 in size:
        return False
    return isinstance(counts, str) or _are_counts(counts)


def _are_counts(values: Any) -> bool:
    """Return whether a value is a list of integers that fit into 32 bits without a sign."""
    if not isinstance(values, list) or not set(map(type, values)) <= {int}:
        return False
    return not values or (min(values) >= 0 and max(values) <= _LARGEST)


def read_run_lengths(rle: Mapping[str, Any]) -> NDArray[np.int64] | None:
    """
    Return the lengths of the runs of a mask, which are outside of the object and in it by turns.

    Args:
        rle (dict): A dict for which ``is_run_length_encoding`` holds.

    Returns:
        array | None: (N,) int64; None if the encoding is damaged, or the runs do not fill its size.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    runs = _decompress(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    if runs is None or len(runs) == 0 or runs.min() < 0 or runs.max() > _LARGEST:
        return None
    # The sum of int64 could only overflow with 2^31 runs.
    return runs if int(runs.sum()) == height * width else None


def _decompress(text: str) -> NDArray[np.int64] | None:
    """Decode a compressed encoding (``rleFrString`` of pycocotools); None if it is damaged."""
    # A character from "0" to "o" has 5 bits of a number, and a bit that says that others follow.
    values = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - ord("0")
    if len(values) == 0 or values.min() < 0 or values.max() > 63 or values[-1] & 32:
        return None
    is_last = (values & 32) == 0
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MOST_CHARACTERS:
        return None
    places = np.arange(len(values)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((values & 31) << (5 * places), starts)
    numbers -= np.where(values[ends] & 16, 1 << (5 * lengths), 0)  # the sign
    # From the fourth number on, it is the difference from the number before the last one.
    runs = numbers.copy()
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])
    return runs
