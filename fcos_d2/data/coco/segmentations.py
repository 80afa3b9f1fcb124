"""Checks and repairs of segmentations, and what can be derived from them: boxes and areas."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .box_checks import is_finite
from .findings import Kind
from .run_lengths import is_run_length_encoding, read_run_lengths

__all__ = [
    "DROPPED",
    "SEGMENTATION_KINDS",
    "Segmentations",
    "box_of_segmentation",
    "read_segmentations",
]

Array = NDArray[Any]

INVALID = Kind(
    "segmentation",
    "{box has|boxes have} a segmentation that is not valid",
    "A segmentation is a list of polygons [x1, y1, x2, y2, ...] or an RLE {'counts': ..., 'size': "
    "[height, width]}. Others are dropped; detection does not need them.",
    field="segmentation",
)
FLAT = Kind(
    "segmentation_flat",
    "{box has|boxes have} a segmentation that is a single polygon instead of a list of polygons",
    "It is read as a list of one polygon.",
    field="segmentation",
)
NO_POLYGON = Kind(
    "segmentation_no_polygon",
    "{box has|boxes have} polygons with fewer than 3 points or an odd number of values",
    "Such polygons are dropped; detection does not need them.",
    field="segmentation",
)


NO_MASK = Kind(
    "segmentation_rle",
    "{box has|boxes have} an RLE that is damaged or does not fit the size of its image",
    "Its size must be [height, width] of the image, and its counts must add up to height * width. "
    "Such masks are dropped; detection does not need them.",
    field="segmentation",
)
OTHER_FORM = Kind(
    "segmentation_form",
    "{box has|boxes have} a segmentation that is a list of something else than polygons",
    "Such segmentations are dropped; detection does not need them.",
    field="segmentation",
)
SEGMENTATION_KINDS = (INVALID, FLAT, NO_POLYGON, NO_MASK, OTHER_FORM)
# The names of the kinds after which nothing may be left of a segmentation.
DROPPED = tuple(x.name for x in (INVALID, NO_POLYGON, NO_MASK, OTHER_FORM))


class Segmentations(NamedTuple):
    """
    The segmentations of some annotations.

    Attributes:
        repaired (dict[int, Any]): The valid segmentation by row, where it differs from that of the
            file. None means that nothing is left.
        areas (array): (N,) float, the areas in pixels; NaN where there is no segmentation.
        rows (dict[Kind, list[int]]): The rows that have a problem.
    """

    repaired: dict[int, Any]
    areas: Array
    rows: dict[Kind, list[int]]


def read_segmentations(values: Sequence[Any], sizes: Array) -> Segmentations:
    """
    Check segmentations, repair what can be repaired safely, and compute the areas.

    Args:
        values (Sequence): The segmentations of a JSON file; empty ones mean that there is none.
        sizes (array): (N, 2), width and height of the image of each segmentation.
    """
    result = Segmentations({}, np.full(len(values), np.nan), {})
    given = [row for row, value in enumerate(values) if value]
    if not _measure_polygons(values, given, result.areas):
        lists, wrapped = _split_off_others(values, given)
        # One by one takes ten times as long.
        if not _measure_polygons(wrapped, lists, result.areas):
            lists, wrapped = [], {}
        for row in sorted(set(given).difference(lists)):
            _read_one(row, values[row], sizes[row], result)
        for row, value in wrapped.items():
            if value is not values[row]:
                result.repaired[row] = value
                result.rows.setdefault(FLAT, []).append(row)
    return result


def _split_off_others(
    values: Sequence[Any], given: Sequence[int]
) -> tuple[list[int], dict[int, Any]]:
    """Return the rows whose segmentations look like polygons, and these as lists of polygons."""
    lists = {}
    for row in given:
        value = values[row]
        if type(value) is list and type(value[0]) in (int, float):
            value = [value]
        if type(value) is list and all(
            type(x) is list and len(x) >= 6 and len(x) % 2 == 0 for x in value
        ):
            lists[row] = value
    return list(lists), lists


def _measure_polygons(
    values: Sequence[Any] | Mapping[int, Any], rows: Sequence[int], areas: Array
) -> bool:
    """Set the areas of these rows if all are valid polygons, and return whether they are."""
    valid_areas = _areas_if_valid([values[row] for row in rows])
    if valid_areas is None:
        return False
    areas[rows] = valid_areas
    return True


def _read_one(row: int, value: Any, size: Array, result: Segmentations) -> None:
    """Check and repair one segmentation, and add it to the result."""
    own_value = value
    value, kinds = _repair(value)
    if isinstance(value, dict):
        runs = read_run_lengths(value) if value["size"] == size[::-1].tolist() else None
        if runs is None:
            value, kinds = None, [NO_MASK]
        else:
            result.areas[row] = runs[1::2].sum()
    elif value is not None:
        result.areas[row] = _areas_of_polygons([value])[0]
    for kind in kinds:
        result.rows.setdefault(kind, []).append(row)
    if value is not own_value:
        result.repaired[row] = value


def _areas_if_valid(segmentations: Sequence[Any]) -> Array | None:
    """Return the areas if all segmentations are valid polygons; None if one is not, or an RLE."""
    if not segmentations:
        return np.zeros(0)
    if set(map(type, segmentations)) != {list}:
        return None
    polygons = list(chain.from_iterable(segmentations))
    if set(map(type, polygons)) != {list}:
        return None
    lengths = set(map(len, polygons))
    if min(lengths) < 6 or any(x % 2 for x in lengths):
        return None
    if not set(map(type, chain.from_iterable(polygons))) <= {int, float}:
        return None
    try:
        areas = _areas_of_polygons(segmentations)
    except OverflowError:  # an integer that is no float
        return None
    return areas if np.isfinite(areas).all() else None


def _repair(value: Any) -> tuple[Any, list[Kind]]:
    """Return a segmentation of a valid form or None, and the kinds of problems of the given one."""
    if isinstance(value, dict):
        value = _with_integer_size(value)
        return (value, []) if is_run_length_encoding(value) else (None, [INVALID])
    if not isinstance(value, list):
        return None, [INVALID]
    kinds = []
    if all(map(is_finite, value)):
        value, kinds = [value], [FLAT]
    if all(x is None or isinstance(x, dict) for x in value):  # [null], or an RLE in a list
        return None, [OTHER_FORM]
    if not all(isinstance(x, list) and all(map(is_finite, x)) for x in value):
        return None, [INVALID]
    polygons = [x for x in value if len(x) >= 6 and len(x) % 2 == 0]
    if len(polygons) < len(value):
        return polygons or None, [*kinds, NO_POLYGON]
    return value, kinds


def _with_integer_size(rle: dict[str, Any]) -> dict[str, Any]:
    """Return an RLE with a size of integers if its size is of floats, such as [64.0, 96.0]."""
    size = rle.get("size")
    if not isinstance(size, list) or set(map(type, size)) <= {int} or not all(map(is_finite, size)):
        return rle
    return {**rle, "size": [int(x) for x in size]} if all(x == int(x) for x in size) else rle


def _areas_of_polygons(segmentations: Sequence[list[list[float]]]) -> Array:
    """Return the sum of the areas of the polygons of each segmentation."""
    polygons = list(chain.from_iterable(segmentations))
    points = np.fromiter(chain.from_iterable(polygons), float).reshape(-1, 2)  # (P, 2)
    ends = np.cumsum(np.fromiter(map(len, polygons), np.int64) // 2)
    starts = np.concatenate([[0], ends[:-1]])
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = starts  # the last point of a polygon is followed by its first one
    x, y = points.T
    with np.errstate(invalid="ignore", over="ignore"):  # infinity gives no area
        areas = np.abs(np.add.reduceat(x * y[following] - x[following] * y, starts)) / 2
    segmentation = np.repeat(np.arange(len(segmentations)), list(map(len, segmentations)))
    return np.bincount(segmentation, areas, len(segmentations))


def box_of_segmentation(segmentation: Any) -> list[float] | None:
    """
    Return the box [x, y, width, height] around a segmentation that ``read_segmentations`` accepts.

    Args:
        segmentation (list | dict | None): Polygons or an RLE.

    Returns:
        list[float] | None: None if there is no segmentation.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        xs = [x for polygon in segmentation for x in polygon[::2]]
        ys = [y for polygon in segmentation for y in polygon[1::2]]
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    from pycocotools import mask

    rle = segmentation
    if isinstance(rle["counts"], list):
        rle = mask.frPyObjects(rle, *rle["size"])
    box: list[float] = mask.toBbox(rle).tolist()
    return box
