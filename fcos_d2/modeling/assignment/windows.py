"""
The few cells of a feature map that a box can own: fixed windows, sifted by exact float tests.

Boxes propose cells along each axis separately, since every test is one of an axis, or two of them.
M = boxes, V = levels that are looked at for each of them, w = cells of the window along an axis.
The first dimension, 2, is x and y. Boxes are the last: they are many, windows are small, and
processors like long rows.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..levels import axis_locations

__all__ = [
    "CellWindows",
    "center_intervals",
    "chunks_of_boxes",
    "pair_is_candidate",
    "window_cells",
]


class CellWindows(NamedTuple):
    """
    Cells proposed along each axis.

    Attributes:
        cells (Tensor): (2, V, w, M) int64 cell index, always on the map.
        is_inside (Tensor): (2, V, w, M) bool, the location lies strictly inside the interval (and
            the cell was on the map before it was forced there).
        to_low, to_high (Tensor): (2, V, w, M) distances to the low and the high side of the box.
    """

    cells: Tensor
    is_inside: Tensor
    to_low: Tensor
    to_high: Tensor


def center_intervals(
    low: Tensor, high: Tensor, centers: Tensor, half_sides: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Centre sampling along each axis: the open interval about a box's centre, clipped to the box.

    Args:
        low, high (Tensor): (2, 1, M) sides of the boxes, in pixels.
        centers (Tensor): (2, 1, M) middle of each box, or of the mask inside of it.
        half_sides (Tensor): (V, M) half side of the centre square on each level, in pixels.

    Returns:
        (Tensor, Tensor): (2, V, M) ends of the intervals.
    """
    return torch.maximum(centers - half_sides, low), torch.minimum(centers + half_sides, high)


def window_cells(
    intervals: tuple[Tensor, Tensor],
    sides: tuple[Tensor, Tensor],
    strides: Tensor,
    map_sizes: Tensor,
    offset: float,
    window: int,
    slide: bool = False,
) -> CellWindows:
    """
    The ``window`` cells from the first location inside an interval on.

    Args:
        intervals (tuple): (2, V, M) ends of the open interval that locations must lie in.
        sides (tuple): (2, 1, M) low and high side of the boxes.
        strides (Tensor): (V, M) or (V, 1) pixels a cell.
        map_sizes (Tensor): (2, V, M) or (2, V, 1) cells of the map along each axis.
        offset (float): see ``axis_locations``.
        window (int): w. It must hold every cell that the interval can have on the map.
        slide (bool): move windows that stick out of the map back onto it, as far as they fit, for
            windows that need not be wider than the map.
    """
    low, high = intervals
    # Division rounds, and underflows beside zero: whether that cell is inside is asked exactly.
    below = (low / strides - offset).floor()
    first = below.long() + (axis_locations(below, strides, offset) <= low)
    if slide:
        first = torch.minimum(first, map_sizes - window).clamp(min=0)
    cells = first[..., None, :] + torch.arange(window, device=low.device)[:, None]
    last_cell = map_sizes[..., None, :] - 1
    is_on_map = (cells >= 0) & (cells <= last_cell)
    locations = axis_locations(cells, strides[:, None], offset)
    return CellWindows(
        cells=torch.minimum(cells, last_cell).clamp_(min=0),
        is_inside=is_on_map & (locations > low[..., None, :]) & (locations < high[..., None, :]),
        to_low=locations - sides[0][..., None, :],
        to_high=sides[1][..., None, :] - locations,
    )


# --8<-- [start:candidates]
def pair_is_candidate(windows: CellWindows, size_ranges: Tensor) -> Tensor:
    """
    (V, w, w, M) bool, y before x: inside along both axes, and max(l, t, r, b) in the level's range.

    Args:
        windows (CellWindows): of both axes.
        size_ranges (Tensor): (2, V, M) or (2, V, 1) inclusive ends, in pixels.
    """
    low, high = size_ranges[:, :, None]
    farthest = torch.maximum(windows.to_low, windows.to_high)
    # The larger of two is at most this if both are, and at least that if one is.
    x_fits, y_fits = windows.is_inside & (farthest <= high)
    x_is_far, y_is_far = farthest >= low
    return x_fits[:, None] & y_fits[:, :, None] & (x_is_far[:, None] | y_is_far[:, :, None])
    # --8<-- [end:candidates]


def chunks_of_boxes(
    sides: Sequence[float], stride: int, map_size: tuple[int, int], max_candidates: int
) -> Iterator[tuple[slice, int]]:
    """
    Cut boxes into runs whose windows together stay below a number of candidates.

    Args:
        sides (list[float]): longer side of each box, in pixels; inf is as long as the map.
        stride (int): pixels a cell.
        map_size (tuple[int, int]): (Hi, Wi).
        max_candidates (int): bound of boxes x cells of a window (one box is always let through).

    Yields:
        (slice, int): the boxes, and the w of a window of w x w cells that fits each of them.
    """
    start, window, most = 0, 0, max(map_size)
    for index, side in enumerate(sides):
        # An open interval of this length holds one location more than strides, at most.
        cells = min(int(min(side / stride, most)) + 1, most)
        if index > start and (index + 1 - start) * max(window, cells) ** 2 > max_candidates:
            yield slice(start, index), window
            start, window = index, 0
        window = max(window, cells)
    if start < len(sides):
        yield slice(start, len(sides)), window
