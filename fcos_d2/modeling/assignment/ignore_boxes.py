"""
The locations inside ignore boxes: regions, such as crowds, that are not trained as background.

N = images, B = ignore boxes of the batch, R = locations of an image over all levels,
Hi x Wi = cells of level i.
"""

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes
from torch import Tensor

from ..levels import Levels, axis_locations

__all__ = ["locations_in_boxes"]


@torch.no_grad()
def locations_in_boxes(
    boxes_per_image: Sequence[Boxes], feature_sizes: Sequence[tuple[int, int]], levels: Levels
) -> Tensor:
    """
    Return which locations are strictly inside any box of their image, on all levels.

    The cost grows with the number of boxes plus the number of locations, not with their product.
    Each box is a rectangle of cells, and only its four corners are written. The cumulative sum over
    both axes then counts the boxes over each cell:

        written                     summed over both axes
        .  .  .  .  .  .            .  .  .  .  .  .
        . +1  .  . -1  .            .  1  1  1  .  .
        .  .  .  .  .  .     ->     .  1  1  1  .  .
        . -1  .  . +1  .            .  .  .  .  .  .

    Args:
        boxes_per_image (list[Boxes]): Boxes of each image; an image may have none.
        feature_sizes (list[tuple[int, int]]): (Hi, Wi) of each level.
        levels (Levels): Strides of the maps and the offset of their locations.

    Returns:
        Tensor: (N, R) bool, on the device of the boxes.
    """
    boxes = torch.cat([boxes.tensor for boxes in boxes_per_image]).float()  # (B, 4)
    image_idxs = torch.cat(  # (B,)
        [
            torch.full((len(boxes),), image_idx, device=boxes.device)
            for image_idx, boxes in enumerate(boxes_per_image)
        ]
    )
    is_inside_per_level = []
    offset = levels.location_offset
    for (height, width), stride in zip(feature_sizes, levels.strides, strict=True):
        first_x, end_x = _cells_between(boxes[:, 0], boxes[:, 2], width, stride, offset)
        first_y, end_y = _cells_between(boxes[:, 1], boxes[:, 3], height, stride, offset)
        corners = torch.zeros(  # (N, Hi + 1, Wi + 1)
            len(boxes_per_image), height + 1, width + 1, dtype=torch.int32, device=boxes.device
        )
        for y, x, sign in (
            (first_y, first_x, 1),
            (first_y, end_x, -1),
            (end_y, first_x, -1),
            (end_y, end_x, 1),
        ):
            change = torch.full_like(image_idxs, sign, dtype=torch.int32)  # (B,)
            corners.index_put_((image_idxs, y, x), change, accumulate=True)  # (N, Hi + 1, Wi + 1)
        num_boxes = corners.cumsum(1).cumsum(2)[:, :-1, :-1]  # (N, Hi, Wi)
        is_inside_per_level.append((num_boxes > 0).flatten(1))  # (N, Hi*Wi)
    return torch.cat(is_inside_per_level, dim=1)  # (N, R)


def _cells_between(
    low: Tensor, high: Tensor, num_cells: int, stride: int, offset: float
) -> tuple[Tensor, Tensor]:
    """
    Find the cells along one axis whose locations are strictly between two coordinates.

    Args:
        low (Tensor): (B,) left or top sides, in pixels.
        high (Tensor): (B,) right or bottom sides, in pixels.
        num_cells (int): Cells of the map along the axis.
        stride (int): Stride of the level in pixels.
        offset (float): Position of a location in its cell, see ``levels.axis_locations``.

    Returns:
        tuple[Tensor, Tensor]: The first such cell, and the one after the last, (B,) each.
    """
    cells = torch.arange(num_cells, device=low.device)  # (num_cells,)
    locations = axis_locations(cells, stride, offset)  # (num_cells,)
    first = torch.searchsorted(locations, low.contiguous(), right=True)  # (B,)
    end = torch.searchsorted(locations, high.contiguous(), right=False)  # (B,)
    return first, torch.maximum(first, end)  # (B,) each
