"""
Regions that are not taught to be background, such as crowds, which are annotated as one box.

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
    Which locations lie strictly inside any box of their image, whatever its size and the level.

    The cost grows with boxes plus locations, not with their product.

    Args:
        boxes_per_image (list[Boxes]): one for each image; it may be empty.
        feature_sizes (list[tuple[int, int]]): (Hi, Wi) of each level.
        levels (Levels): of the maps.

    Returns:
        Tensor: (N, R) bool, on the device of the boxes.
    """
    boxes = torch.cat([boxes.tensor for boxes in boxes_per_image]).float()
    image_idxs = torch.cat(
        [
            torch.full((len(boxes),), image_idx, device=boxes.device)
            for image_idx, boxes in enumerate(boxes_per_image)
        ]
    )
    is_inside = []
    offset = levels.location_offset
    for (height, width), stride in zip(feature_sizes, levels.strides, strict=True):
        first_x, end_x = _cells_between(boxes[:, 0], boxes[:, 2], width, stride, offset)
        first_y, end_y = _cells_between(boxes[:, 1], boxes[:, 3], height, stride, offset)
        # Each box adds 1 to its rectangle of cells, written down at the four corners alone.
        corners = torch.zeros(
            len(boxes_per_image), height + 1, width + 1, dtype=torch.int32, device=boxes.device
        )
        for y, x, sign in (
            (first_y, first_x, 1),
            (first_y, end_x, -1),
            (end_y, first_x, -1),
            (end_y, end_x, 1),
        ):
            change = torch.full_like(image_idxs, sign, dtype=torch.int32)
            corners.index_put_((image_idxs, y, x), change, accumulate=True)
        num_boxes = corners.cumsum(1).cumsum(2)[:, :-1, :-1]
        is_inside.append((num_boxes > 0).flatten(1))
    return torch.cat(is_inside, dim=1)


def _cells_between(
    low: Tensor, high: Tensor, num_cells: int, stride: int, offset: float
) -> tuple[Tensor, Tensor]:
    """First cell whose location is above ``low``, and the one after the last below ``high``."""
    locations = axis_locations(torch.arange(num_cells, device=low.device), stride, offset)
    first = torch.searchsorted(locations, low.contiguous(), right=True)
    end = torch.searchsorted(locations, high.contiguous(), right=False)
    return first, torch.maximum(first, end)
