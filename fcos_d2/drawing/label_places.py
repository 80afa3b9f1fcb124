"""Places for the labels of boxes, so that they do not cover each other."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["place_labels"]

_ROWS = 3  # rows of labels above a box, in its upper part, and below it


def place_labels(
    sizes: Sequence[tuple[float, float]],
    boxes: NDArray[np.float64],
    picture_size: tuple[float, float],
    taken: Sequence[tuple[float, float, float, float]] = (),
) -> NDArray[np.float64]:
    """
    Find a place for the label of each box.

    The first label is placed first: above its box, at its left corner. Each other label has the
    first free place in the rows above its box, in its upper part, or below it. In a row, it moves
    to the right of labels that are already there. So the labels of equal boxes are next to each
    other or stacked. If no place is free, a label gets the place where the least of it is covered.

    Args:
        sizes (list[tuple[float, float]]): Width and height of each of the M labels.
        boxes (array): (M, 4) xyxy. The labels of the first boxes are the most important ones.
        picture_size (tuple[float, float]): Width and height of the picture.
        taken (list[tuple]): Areas xyxy where no label may be.

    Returns:
        array: (M, 2) left upper corners, within the picture if the label fits into it.
    """
    areas = np.zeros((len(taken) + len(sizes), 4))  # the taken ones, then those of the labels
    areas[: len(taken)] = np.reshape(taken, (-1, 4))
    for index, (size, box) in enumerate(zip(sizes, boxes, strict=True), start=len(taken)):
        corner = _find_place(size, box, picture_size, areas[:index])
        areas[index] = *corner, *corner + size
    return areas[len(taken) :, :2]


def _find_place(
    size: tuple[float, float],
    box: NDArray[np.float64],
    picture_size: tuple[float, float],
    taken: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the first free place of a label, or else the one with the least overlap."""
    best, least = np.zeros(2), np.inf
    for corner in _candidate_places(size, box, picture_size, taken):
        overlap = _overlaps(np.array([*corner, *corner + size]), taken).sum()
        if overlap < least:
            best, least = corner, overlap
        if overlap == 0:
            break
    return best


def _candidate_places(
    size: tuple[float, float],
    box: NDArray[np.float64],
    picture_size: tuple[float, float],
    taken: NDArray[np.float64],
) -> Iterator[NDArray[np.float64]]:
    """Yield places in the picture for a label, in the order of preference."""
    width, height = size
    limits = np.maximum(np.array(picture_size) - size, 0)  # of the left upper corner
    left, right = box[0].clip(0, limits[0]), box[2].clip(0, limits[0])
    steps = height * np.arange(_ROWS)
    tops = [*box[1] - height - steps, *box[1] + steps, *box[3] + steps]
    # Where no row is in the picture, the nearest place is taken.
    visible = [y for y in tops if 0 <= y <= limits[1]] or [box[1].clip(0, limits[1])]
    for top in visible:
        x = left
        while x <= right:
            yield np.array([x, top])
            blockers = taken[_overlaps(np.array([x, top, x + width, top + height]), taken) > 0]
            if not len(blockers):
                break
            x = blockers[:, 2].max()


def _overlaps(area: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area that each of (M, 4) rectangles has in common with one."""
    low, high = np.maximum(area[:2], others[:, :2]), np.minimum(area[2:], others[:, 2:])
    # Heights of labels differ by parts of a pixel, so neighbors may overlap by one pixel.
    sides = (high - low - 1).clip(min=0)  # (M, 2)
    return sides.prod(axis=1)
