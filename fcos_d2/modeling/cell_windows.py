"""
The few cells of a feature map that a box can own: fixed windows, sifted by exact float tests.

Boxes propose cells along each axis separately, since every test is one of an axis, or two of them.
M = boxes, V = levels that are looked at for each of them, w = cells of the window along an axis.
Boxes are the last dimension: they are many, windows are small, and processors like long rows.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .locations import axis_locations

__all__ = [
    "AxisWindow",
    "center_intervals",
    "chunks_of_boxes",
    "num_cells_across",
    "pair_is_candidate",
    "window_axis",
]


class AxisWindow(NamedTuple):
    """
    Cells proposed along one axis.

    Attributes:
        cells (Tensor): (V, w, M) int64 cell index, always on the map.
        is_inside (Tensor): (V, w, M) bool, the location lies strictly inside the interval (and the
            cell was on the map before it was forced there).
        to_low, to_high (Tensor): (V, w, M) distances to the low and the high side of the box.
    """

    cells: Tensor
    is_inside: Tensor
    to_low: Tensor
    to_high: Tensor

    @property
    def farthest(self) -> Tensor:
        return torch.maximum(self.to_low, self.to_high)


def center_intervals(
    low: Tensor, high: Tensor, centers: Tensor, half_sides: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Centre sampling along one axis: the open interval about a box's centre, clipped to the box.

    Args:
        low, high (Tensor): (M,) sides of the boxes, in pixels.
        centers (Tensor): (M,) middle of each box, or of the mask inside of it.
        half_sides (Tensor): (V, M) half side of the centre square on each level, in pixels.

    Returns:
        (Tensor, Tensor): (V, M) ends of the intervals.
    """
    return torch.maximum(centers - half_sides, low), torch.minimum(centers + half_sides, high)


def window_axis(
    intervals: tuple[Tensor, Tensor],
    sides: tuple[Tensor, Tensor],
    strides: Tensor,
    map_sizes: Tensor,
    offset: float,
    window: int,
    slide: bool = False,
) -> AxisWindow:
    """
    The ``window`` cells from the first location inside an interval on.

    Args:
        intervals (tuple): (V, M) ends of the open interval that locations must lie in.
        sides (tuple): (M,) low and high side of the boxes.
        strides (Tensor): (V, M) or (V, 1) pixels a cell.
        map_sizes (Tensor): of the same shape, cells of the map along this axis.
        offset (float): see :func:`axis_locations`.
        window (int): w. It must hold every cell that the interval can have on the map.
        slide (bool): move windows that stick out of the map back onto it, for windows that may be
            as wide as the map but no wider.
    """
    low, high = intervals
    first = (low / strides - offset).floor().long() + 1
    # Division rounds: the same test as below makes the first cell exact.
    first = first - (axis_locations(first - 1, strides, offset) > low).long()
    first = first + (axis_locations(first, strides, offset) <= low).long()
    if slide:
        first = torch.minimum(first, map_sizes - window).clamp(min=0)
    cells = first[:, None] + torch.arange(window, device=low.device)[:, None]
    last_cell = map_sizes[:, None] - 1
    is_on_map = (cells >= 0) & (cells <= last_cell)
    locations = axis_locations(cells, strides[:, None], offset)
    return AxisWindow(
        cells=torch.minimum(cells, last_cell).clamp_(min=0),
        is_inside=is_on_map & (locations > low[:, None]) & (locations < high[:, None]),
        to_low=locations - sides[0],
        to_high=sides[1] - locations,
    )


def pair_is_candidate(x_axis: AxisWindow, y_axis: AxisWindow, size_ranges: Tensor) -> Tensor:
    """
    (V, w_y, w_x, M) bool: inside along both axes, and max(l, t, r, b) in the level's range.

    Args:
        size_ranges (Tensor): (2, V, M) or (2, V, 1) inclusive ends, in pixels.
    """
    low, high = size_ranges[:, :, None]
    # The larger of two is at most this if both are, and at least that if one is.
    x_fits, y_fits = (axis.is_inside & (axis.farthest <= high) for axis in (x_axis, y_axis))
    x_is_far, y_is_far = (axis.farthest >= low for axis in (x_axis, y_axis))
    return x_fits[:, None] & y_fits[:, :, None] & (x_is_far[:, None] | y_is_far[:, :, None])


def num_cells_across(side: float, stride: int) -> int:
    """How many locations an open interval of this length can hold at most."""
    return int(side // stride) + 1


def chunks_of_boxes(
    sides: Sequence[float], stride: int, map_size: tuple[int, int], max_candidates: int
) -> Iterator[tuple[slice, tuple[int, int]]]:
    """
    Cut boxes into runs whose windows together stay below a number of candidates.

    Args:
        sides (list[float]): longer side of each box, in pixels.
        stride (int): pixels a cell.
        map_size (tuple[int, int]): (Hi, Wi).
        max_candidates (int): bound of boxes x window height x window width (one box is always let
            through).

    Yields:
        (slice, (int, int)): the boxes, and height and width of a window that fits each of them.
    """
    start, window = 0, (0, 0)
    for index, side in enumerate(sides):
        cells = num_cells_across(side, stride)
        grown = max(window[0], min(cells, map_size[0])), max(window[1], min(cells, map_size[1]))
        if index > start and (index + 1 - start) * grown[0] * grown[1] > max_candidates:
            yield slice(start, index), window
            start = index
            grown = min(cells, map_size[0]), min(cells, map_size[1])
        window = grown
    if start < len(sides):
        yield slice(start, len(sides)), window
