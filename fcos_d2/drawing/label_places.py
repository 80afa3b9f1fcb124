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
) -> list[tuple[float, float] | None]:
    """
    Find a place for the label of each box.

    The first label is placed first: above its box, at its left corner. Each other label has the
    first free place in the rows above its box, in its upper part, or below it. In a row, it moves
    to the right of labels that are already there. So the labels of equal boxes are next to each
    other or stacked. A label that would hide much of a low box is rather below it than in it.

    Args:
        sizes (list[tuple[float, float]]): Width and height of each of the M labels.
        boxes (array): (M, 4) xyxy. The labels of the first boxes are the most important ones.
        picture_size (tuple[float, float]): Width and height of the picture.
        taken (list[tuple]): Areas xyxy where no label may be.

    Returns:
        list[tuple[float, float] | None]: M left upper corners of labels in the picture. None if no
        place is free, or if the label is larger than the picture.
    """
    areas = np.reshape(np.array(taken, dtype=np.float64), (-1, 4))
    places: list[tuple[float, float] | None] = []
    for size, box in zip(sizes, boxes, strict=True):
        place = next(_free_places(size, box, picture_size, areas), None)
        places.append(place)
        if place is not None:
            area = [*place, place[0] + size[0], place[1] + size[1]]
            areas = np.concatenate([areas, [area]])
    return places


def _free_places(
    size: tuple[float, float],
    box: NDArray[np.float64],
    picture_size: tuple[float, float],
    taken: NDArray[np.float64],
) -> Iterator[tuple[float, float]]:
    """Yield the free places in the picture for a label, in the order of preference."""
    width, height = size
    limits = np.array(picture_size) - size  # of the left upper corner
    if limits.min() < 0:
        return
    left, right = box[[0, 2]].clip(0, limits[0])
    # The lines of a box at the edge of the picture are partly outside of it.
    top, bottom = box[[1, 3]].clip(0, picture_size[1])
    steps = height * np.arange(_ROWS)
    above, inside, below = top - height - steps, top + steps, bottom + steps
    is_low = bottom - top < 2 * height
    tops = [*above, *below, *inside] if is_low else [*above, *inside, *below]
    # Where no row is in the picture, the nearest place is taken.
    for y in [y for y in tops if 0 <= y <= limits[1]] or [top.clip(0, limits[1])]:
        x = left
        while x <= right:
            blockers = taken[_overlaps(np.array([x, y, x + width, y + height]), taken) > 0]
            if not len(blockers):
                yield float(x), float(y)
                break
            x = blockers[:, 2].max()


def _overlaps(area: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area that each of (M, 4) rectangles has in common with one."""
    low, high = np.maximum(area[:2], others[:, :2]), np.minimum(area[2:], others[:, 2:])
    # Heights of labels differ by parts of a pixel, so neighbors may overlap by one pixel.
    sides = (high - low - 1).clip(min=0)  # (M, 2)
    return sides.prod(axis=1)
