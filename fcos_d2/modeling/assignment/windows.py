"""
Windows of cells around boxes: the few cells of a feature map that can be assigned to a box.

The assignment rule tests x and y separately and then combines the results. So the cells of a window
are computed separately along x and y. This is an example for one axis, with a stride of 8, an
offset of 0.5, a box from 10 to 50 and a center sampling radius of 1.5:

    cell        0       1       2       3       4       5       6
    location    4      12      20      28      36      44      52    pixels
    box               [---------------------------------------]      10 to 50
    interval                  (-----------------------)              30 - 12 to 30 + 12
    window                      2       3       4                    w = 3 cells

M = gt boxes of the batch or of a chunk, V = levels that are considered for each box,
w = cells of a window along one axis, Hi x Wi = cells of level i.
A first dimension of 2 is x and y. The boxes are the last dimension, because there are many boxes
but few cells in a window, and processors are fastest on long rows.
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
    "pair_is_eligible",
    "window_cells",
]


class CellWindows(NamedTuple):
    """
    The cells of windows along each axis.

    Attributes:
        cells (Tensor): (2, V, w, M) int64 cell index, always on the map.
        is_inside (Tensor): (2, V, w, M) bool, whether the location is strictly inside the interval
            and the cell was on the map before its index was clamped.
        to_low (Tensor): (2, V, w, M) distance to the left or top side of the box, in pixels.
        to_high (Tensor): (2, V, w, M) distance to the right or bottom side of the box, in pixels.
    """

    cells: Tensor
    is_inside: Tensor
    to_low: Tensor
    to_high: Tensor


def center_intervals(
    low: Tensor, high: Tensor, centers: Tensor, half_sides: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Return the open intervals of center sampling along each axis, clipped to the boxes.

    Args:
        low (Tensor): (2, 1, M) left and top sides of the boxes, in pixels.
        high (Tensor): (2, 1, M) right and bottom sides of the boxes, in pixels.
        centers (Tensor): (2, 1, M) center of each box, or centroid of its mask.
        half_sides (Tensor): (V, M) half the side of the center square on each level, in pixels.

    Returns:
        tuple[Tensor, Tensor]: Low and high ends of the intervals, (2, V, M) each.
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
    Return a window of ``window`` cells that starts at the first location inside each interval.

    Args:
        intervals (tuple[Tensor, Tensor]): (2, V, M) low and high ends of the open intervals that
            locations must be in.
        sides (tuple[Tensor, Tensor]): (2, 1, M) low and high sides of the boxes.
        strides (Tensor): (V, M) or (V, 1) stride in pixels.
        map_sizes (Tensor): (2, V, M) or (2, V, 1) width and height of the map in cells.
        offset (float): Position of a location in its cell, see ``levels.axis_locations``.
        window (int): w. It must be large enough for all cells on the map that an interval contains.
        slide (bool): Move windows that extend beyond the map back onto it, as far as possible. Then
            w does not have to be larger than the map.
    """
    low, high = intervals  # (2, V, M) each
    # Division rounds, and can underflow near zero. Whether this cell is inside is tested exactly.
    below = (low / strides - offset).floor()  # (2, V, M)
    first = below.long() + (axis_locations(below, strides, offset) <= low)  # (2, V, M)
    if slide:
        first = torch.minimum(first, map_sizes - window).clamp(min=0)  # (2, V, M)
    steps = torch.arange(window, device=low.device)[:, None]  # (w, 1)
    cells = first[..., None, :] + steps  # (2, V, w, M)
    last_cell = map_sizes[..., None, :] - 1  # (2, V, 1, M) or (2, V, 1, 1)
    is_on_map = (cells >= 0) & (cells <= last_cell)  # (2, V, w, M)
    locations = axis_locations(cells, strides[:, None], offset)  # (2, V, w, M)
    low, high = low[..., None, :], high[..., None, :]  # (2, V, 1, M) each
    is_in_interval = (locations > low) & (locations < high)  # (2, V, w, M)
    return CellWindows(
        cells=torch.minimum(cells, last_cell).clamp_(min=0),  # (2, V, w, M)
        is_inside=is_on_map & is_in_interval,  # (2, V, w, M)
        to_low=locations - sides[0][..., None, :],  # (2, V, w, M)
        to_high=sides[1][..., None, :] - locations,  # (2, V, w, M)
    )


# --8<-- [start:eligible]
def pair_is_eligible(windows: CellWindows, size_ranges: Tensor) -> Tensor:
    """
    Return whether each cell of the windows is eligible for its box.

    The location must be inside the interval along both axes, and max(l, t, r, b) must be in the
    size range of the level.

    Args:
        windows (CellWindows): The cells of the windows along both axes.
        size_ranges (Tensor): (2, V, M) or (2, V, 1) inclusive low and high ends, in pixels.

    Returns:
        Tensor: (V, w, w, M) bool; the axes of a window are y and x, in this order.
    """
    low, high = size_ranges[:, :, None]  # (V, 1, M) or (V, 1, 1) each
    farthest = torch.maximum(windows.to_low, windows.to_high)  # (2, V, w, M)
    # The larger of two values is <= high if both are, and >= low if at least one is.
    x_fits, y_fits = windows.is_inside & (farthest <= high)  # (V, w, M) each
    x_is_far, y_is_far = farthest >= low  # (V, w, M) each
    return x_fits[:, None] & y_fits[:, :, None] & (x_is_far[:, None] | y_is_far[:, :, None])
    # --8<-- [end:eligible]


def chunks_of_boxes(
    sides: Sequence[float], stride: int, map_size: tuple[int, int], max_pairs: int
) -> Iterator[tuple[slice, int]]:
    """
    Split the boxes into chunks, so that each chunk has a limited number of (cell, box) pairs.

    Args:
        sides (list[float]): Longer side of each box, in pixels; inf means as long as the map.
        stride (int): Stride of the level in pixels.
        map_size (tuple[int, int]): (Hi, Wi).
        max_pairs (int): Maximum number of boxes x cells of a window. A chunk of only one box may
            exceed it.

    Yields:
        tuple[slice, int]: The boxes of a chunk, and the w for which a window of w x w cells is
        large enough for each of these boxes.
    """
    start, window, longest_side = 0, 0, max(map_size)
    for index, side in enumerate(sides):
        # An open interval of n strides contains at most ceil(n) <= floor(n) + 1 locations.
        cells = min(int(min(side / stride, longest_side)) + 1, longest_side)
        if index > start and (index + 1 - start) * max(window, cells) ** 2 > max_pairs:
            yield slice(start, index), window
            start, window = index, 0
        window = max(window, cells)
    if start < len(sides):
        yield slice(start, len(sides)), window
