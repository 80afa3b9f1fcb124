"""The simple, dense versions of what the package does fast. Equality with them is exact."""

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
    The rule of FCOS for one image, every location against every box: (R,) box index, -1 = none.

    ``centers`` (M, 2), those of centre sampling, are the boxes' unless given.
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
    wants = ltrb.amin(-1) > 0
    farthest = ltrb.amax(-1)
    wants &= (farthest >= ranges[:, :1]) & (farthest <= ranges[:, 1:])
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
        wants &= (x > center_x - half) & (x < center_x + half)
        wants &= (y > center_y - half) & (y < center_y + half)
    area = ((x2 - x1) * (y2 - y1)).expand(num_locations, -1)
    least, owner = area.masked_fill(~wants, float("inf")).min(dim=1)
    # min() does not promise the first of equal areas: look it up.
    owner = ((area == least[:, None]) & wants).int().argmax(dim=1)
    return torch.where(wants.any(1), owner, -1)
