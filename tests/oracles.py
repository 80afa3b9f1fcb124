"""Simple, dense versions of optimized algorithms, whose results are exactly equal."""

import torch
from torch import Tensor

from fcos_d2.modeling.levels import compute_locations


def dense_matched_idxs(
    boxes: Tensor,
    feature_sizes: list[tuple[int, int]],
    strides: list[int],
    size_ranges: list[tuple[float, float]],
    radius: float,
    offset: float = 0.5,
    centers: Tensor | None = None,
) -> Tensor:
    """
    Match every location of an image by comparing it with every box.

    Args:
        boxes (Tensor): (M, 4), xyxy in pixels.
        feature_sizes (list): The (height, width) of each level's map.
        strides (list[int]): The stride of each level in pixels.
        size_ranges (list): The (min, max) of max(l, t, r, b) for each level.
        radius (float): The radius of center sampling in strides; 0 means the whole box.
        offset (float): The position of a location in its cell, as a fraction of the stride.
        centers (Tensor | None): (M, 2), the centers of center sampling; None means those of the
            boxes.

    Returns:
        Tensor: (R,) index of the box of each location, -1 for none.
    """
    locations = compute_locations(feature_sizes, strides, offset)
    num_per_level = [len(xy) for xy in locations]
    num_locations = sum(num_per_level)
    if len(boxes) == 0:
        return torch.full((num_locations,), -1)
    ranges = torch.cat(
        [torch.tensor([r]).expand(n, 2) for r, n in zip(size_ranges, num_per_level, strict=True)]
    )
    x, y = torch.cat(locations)[:, None].unbind(-1)  # (R, 1)
    x1, y1, x2, y2 = boxes.unbind(1)  # (M,)
    ltrb = torch.stack([x - x1, y - y1, x2 - x, y2 - y], dim=-1)  # (R, M, 4)
    is_match = ltrb.amin(-1) > 0
    farthest = ltrb.amax(-1)
    is_match &= (farthest >= ranges[:, :1]) & (farthest <= ranges[:, 1:])
    if radius > 0:
        half = torch.cat(
            [
                torch.tensor(radius) * torch.full((n, 1), s)
                for s, n in zip(strides, num_per_level, strict=True)
            ]
        )
        center_x, center_y = (x1 + x2) / 2, (y1 + y2) / 2
        if centers is not None:
            center_x, center_y = centers.unbind(1)
        is_match &= (x > center_x - half) & (x < center_x + half)
        is_match &= (y > center_y - half) & (y < center_y + half)
    area = ((x2 - x1) * (y2 - y1)).expand(num_locations, -1)
    least, owner = area.masked_fill(~is_match, float("inf")).min(dim=1)
    # min() may return any of several equal areas; the first of them is the owner.
    owner = ((area == least[:, None]) & is_match).int().argmax(dim=1)
    return torch.where(is_match.any(1), owner, -1)
