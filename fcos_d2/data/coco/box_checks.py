"""Checks of many boxes at once."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .findings import Kind

__all__ = [
    "LEFT_OUT",
    "NO_BOX_NUMBERS",
    "find_box_kinds",
    "is_finite",
    "read_boxes",
    "read_numbers",
]

Array = NDArray[Any]

_CORRECT = "Correct those of objects: a bbox is [x, y, width, height] in pixels."
NO_BOX_NUMBERS = Kind(
    "box_numbers",
    "{box is|boxes are} not four numbers",
    "A bbox is [x, y, width, height] in pixels.",
    is_fatal=True,
    field="bbox",
)
NOT_FINITE = Kind(
    "box_not_finite",
    "{box is|boxes are} not finite, or huge",
    f"Training and evaluation leave out such boxes. {_CORRECT}",
    field="bbox",
)
NEGATIVE = Kind(
    "box_negative",
    "{box has|boxes have} a negative width or height",
    "Are the corners swapped? Training and evaluation leave out such boxes.",
    field="bbox",
)
NO_AREA = Kind(
    "box_no_area",
    "{box has|boxes have} no area",
    f"Training leaves out such boxes. {_CORRECT}",
    field="bbox",
)
OUTSIDE = Kind(
    "box_outside",
    "{box is|boxes are} outside of {its image|their images}",
    f"Training leaves out such boxes. {_CORRECT}",
    field="bbox",
)
REACHES_OUT = Kind(
    "box_reaches_out",
    "{box reaches|boxes reach} out of {its image|their images}",
    "Are they [x1, y1, x2, y2] instead of [x, y, w, h]? Training clips them to the image.",
    field="bbox",
)
# Boxes of these kinds are in no valid COCO content, and training cannot use those of the others.
REMOVED = (NOT_FINITE, NEGATIVE)
LEFT_OUT = (*REMOVED, NO_AREA, OUTSIDE)


def is_finite(value: Any) -> bool:
    """Check that a value of a JSON file is a number that a float can hold."""
    if not _is_number(value):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _is_number(value: Any) -> bool:
    """Check that a value of a JSON file is a number; isinstance would accept True as an int."""
    return type(value) in (int, float)


def read_numbers(values: Sequence[Any]) -> Array:
    """
    Convert values of a JSON file to an array.

    Returns:
        array: (N,) float. NaN stands for what is not a number that a float can hold.
    """
    if set(map(type, values)) <= {int, float}:
        try:
            return np.fromiter(values, float, len(values))
        except OverflowError:
            pass
    return np.array([float(x) if is_finite(x) else np.nan for x in values], float)


def read_boxes(values: Sequence[Any]) -> tuple[Array, Array]:
    """
    Convert the boxes of a JSON file to an array.

    Returns:
        tuple[array, array]: (N, 4) float, where infinity also stands for huge integers; and
        (N,) bool, which is False where a value is not a list of four numbers.
    """
    if (
        set(map(type, values)) <= {list}
        and set(map(len, values)) <= {4}
        and set(map(type, chain.from_iterable(values))) <= {int, float}
    ):
        try:
            flat = np.fromiter(chain.from_iterable(values), float, 4 * len(values))
            return flat.reshape(-1, 4), np.ones(len(values), bool)
        except OverflowError:  # an integer that is no float
            pass
    valid = np.array([_is_box(x) for x in values], bool)
    boxes = np.full((len(values), 4), np.nan)
    for row in np.flatnonzero(valid).tolist():
        boxes[row] = [np.inf if isinstance(x, int) and abs(x) > 2**53 else x for x in values[row]]
    return boxes, valid


def _is_box(value: Any) -> bool:
    """Check that a value is a list of four numbers."""
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(map(_is_number, value))


def find_box_kinds(boxes: Array, sizes: Array) -> dict[Kind, Array]:
    """
    Find the boxes that training leaves out or clips.

    Args:
        boxes (array): (N, 4) float, [x, y, width, height] in pixels.
        sizes (array): (N, 2), width and height of the image of each box.

    Returns:
        dict[Kind, array]: (N,) bool for each kind. A box is of one kind at most.
    """
    finite: Array = np.all(np.abs(boxes) <= 2**53, axis=1)  # False for NaN
    boxes = np.where(finite[:, None], boxes, 0)
    low, size = boxes[:, :2], boxes[:, 2:]
    high = low + size
    kinds: dict[Kind, Array] = {NOT_FINITE: ~finite}
    rest: Array = finite
    for kind, matches in (
        (NEGATIVE, (size < 0).any(1)),
        (NO_AREA, (size == 0).any(1)),
        (OUTSIDE, ((low >= sizes) | (high <= 0)).any(1)),
        # Rounding often places a side up to one pixel outside.
        (REACHES_OUT, ((low < -1) | (high > sizes + 1)).any(1)),
    ):
        kinds[kind] = rest & matches
        rest = rest & ~matches
    return kinds
