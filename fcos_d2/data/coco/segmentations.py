"""Checks and repairs of segmentations, and what can be derived from them: boxes and areas."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .box_checks import is_finite
from .findings import Kind

__all__ = ["Segmentations", "box_of_segmentation", "read_segmentations"]

Array = NDArray[Any]

INVALID = Kind(
    "segmentation",
    "{box has|boxes have} a segmentation that is not valid",
    "A segmentation is a list of polygons [x1, y1, x2, y2, ...] or an RLE {'counts': ..., 'size': "
    "[height, width]}. Fix or delete it; detection does not need it.",
    is_fatal=True,
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
    "Such polygons are dropped, and the boxes are kept.",
    field="segmentation",
)


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


def read_segmentations(values: Sequence[Any]) -> Segmentations:
    """
    Check segmentations, repair what can be repaired safely, and compute the areas.

    Args:
        values (Sequence): The segmentations of a JSON file; empty ones mean that there is none.
    """
    areas = np.full(len(values), np.nan)
    repaired: dict[int, Any] = {}
    rows: dict[Kind, list[int]] = {}
    given = [row for row, value in enumerate(values) if value]
    valid_areas = _areas_if_valid([values[row] for row in given])
    if valid_areas is not None:
        areas[given] = valid_areas
        return Segmentations(repaired, areas, rows)
    for row in given:
        value, kinds = _repair(values[row])
        for kind in kinds:
            rows.setdefault(kind, []).append(row)
        if kinds:
            repaired[row] = value
        if isinstance(value, dict):
            areas[row] = _area_of_rle(value)
        elif value is not None:
            areas[row] = _areas_of_polygons([value])[0]
    return Segmentations(repaired, areas, rows)


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
    """Return a valid segmentation or None, and the kinds of problems of the given one."""
    if isinstance(value, dict):
        return (value, []) if _is_rle(value) else (None, [INVALID])
    if not isinstance(value, list):
        return None, [INVALID]
    kinds = []
    if all(map(is_finite, value)):
        value, kinds = [value], [FLAT]
    if not all(isinstance(x, list) and all(map(is_finite, x)) for x in value):
        return None, [INVALID]
    polygons = [x for x in value if len(x) >= 6 and len(x) % 2 == 0]
    if len(polygons) < len(value):
        kinds = [*kinds, NO_POLYGON]
    return polygons or None, kinds


def _is_rle(segmentation: Mapping[str, Any]) -> bool:
    """Check that a dict is a run-length encoding, compressed or not."""
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(map(_is_count, size)) or 0 in size:
        return False
    if isinstance(counts, str):
        return counts.isascii()
    return isinstance(counts, list) and all(map(_is_count, counts))


def _is_count(value: Any) -> bool:
    """Check that a value is an integer that fits into 32 bits without a sign."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32


def _areas_of_polygons(segmentations: Sequence[list[list[float]]]) -> Array:
    """Return the sum of the areas of the polygons of each segmentation."""
    polygons = list(chain.from_iterable(segmentations))
    points = np.fromiter(chain.from_iterable(polygons), float).reshape(-1, 2)  # (P, 2)
    ends = np.cumsum(np.fromiter(map(len, polygons), np.int64) // 2)
    starts = np.concatenate([[0], ends[:-1]])
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = starts  # the last point of a polygon is followed by its first one
    x, y = points.T
    areas = np.abs(np.add.reduceat(x * y[following] - x[following] * y, starts)) / 2
    segmentation = np.repeat(np.arange(len(segmentations)), list(map(len, segmentations)))
    return np.bincount(segmentation, areas, len(segmentations))


def _area_of_rle(rle: Mapping[str, Any]) -> float:
    """Return the number of pixels of a run-length encoding."""
    if isinstance(rle["counts"], list):
        return float(sum(rle["counts"][1::2]))
    from pycocotools import mask

    return float(mask.area(rle))


def box_of_segmentation(segmentation: Any) -> list[float] | None:
    """
    Return the box [x, y, width, height] around a valid segmentation.

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
