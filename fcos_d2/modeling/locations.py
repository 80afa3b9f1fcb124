"""
Locations: the image points that FCOS predicts from, one for each cell of each feature map.

R = locations over all levels, L = levels, Hi x Wi = cells of level i.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["axis_locations", "compute_locations", "constant_on", "flatten_levels"]


def axis_locations(cells: Tensor, strides: Tensor | int, offset: float) -> Tensor:
    """
    Coordinates of cells along one axis: ``(cell + offset) * stride``.

    Args:
        cells (Tensor): integer cell indices of any shape.
        strides (Tensor or int): pixels a cell, broadcastable to ``cells``.
        offset (float): 0.5 puts locations in the middle of cells (arXiv:1904.01355, Sec. 3.1;
            for even strides its floor(s/2) is the same), 0 in their corner, as torchvision does.

    Returns:
        Tensor: float32 coordinates in image pixels, same shape as ``cells``.
    """
    return (cells.to(torch.float32) + offset) * strides


def compute_locations(
    feature_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    offset: float = 0.5,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """
    Locations of every level, row by row.

    Args:
        feature_sizes (list[tuple[int, int]]): (Hi, Wi) of each level.
        strides (list[int]): pixels a cell of each level, as the backbone declares them. They are
            never derived from image size / map size, which is wrong where maps are rounded up.
        offset (float): see :func:`axis_locations`.
        device: where to put them.

    Returns:
        list[Tensor]: L tensors (Hi*Wi, 2) float32, xy in image pixels.
    """
    locations = []
    for (height, width), stride in zip(feature_sizes, strides, strict=True):
        xs = axis_locations(torch.arange(width, device=device), stride, offset)
        ys = axis_locations(torch.arange(height, device=device), stride, offset)
        grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
        locations.append(torch.stack([grid_x, grid_y], dim=-1).reshape(-1, 2))
    return locations


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Concatenate L maps (N, C, Hi, Wi) to (N, R, C), in the order of the locations."""
    # In memory the order stays that of the maps: no transposing.
    if all(x.is_contiguous(memory_format=torch.channels_last) for x in maps):
        return torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps], dim=1)
    return torch.cat([x.flatten(2) for x in maps], dim=2).transpose(1, 2)


def constant_on(values: Any, device: torch.device) -> Tensor:
    """
    torch.tensor(values, device=device), but that the host goes on at once: that one waits until
    a GPU has done all that it was given.
    """
    return torch.tensor(values).to(device, non_blocking=True)
