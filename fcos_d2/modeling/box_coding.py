"""
The distances (l, t, r, b) from a location to the four sides of a box, and back.

Everything is in image pixels and float32, whatever autocast says: half precision cannot tell
neighbouring pixels apart above 1024.
"""

import torch
from torch import Tensor

__all__ = ["activate_ltrb", "decode_ltrb", "encode_ltrb"]

_MAX_LOG_DISTANCE = 12.0  # 160,000 pixels: areas stay finite in float32, whatever the network says


def activate_ltrb(raw: Tensor, strides: Tensor | int, activation: str) -> Tensor:
    """
    Turn the raw regression output of the head into distances in pixels.

    Args:
        raw (Tensor): head output of any shape and precision, the level's scale s_l included.
        strides (Tensor or int): stride of each element's level, broadcastable to ``raw``.
        activation (str): "relu": ``relu(raw) * stride``, the network regresses in units of strides
            (arXiv:2006.09214, Sec. 2.1); "exp": ``exp(raw)`` are pixels (arXiv:1904.01355,
            Sec. 3.2).

    Returns:
        Tensor: float32 distances in pixels, none below 0.
    """
    if activation == "relu":
        return raw.float().relu() * strides
    assert activation == "exp", activation
    return raw.float().clamp(max=_MAX_LOG_DISTANCE).exp()


def encode_ltrb(locations: Tensor, boxes: Tensor) -> Tensor:
    """
    Distances of locations to the sides of boxes.

    Args:
        locations (Tensor): (..., 2) xy.
        boxes (Tensor): (..., 4) xyxy, broadcastable to the locations.

    Returns:
        Tensor: (..., 4) left, top, right, bottom; all positive exactly when the location lies
        strictly inside the box.
    """
    return torch.cat([locations - boxes[..., :2], boxes[..., 2:] - locations], dim=-1)


def decode_ltrb(locations: Tensor, ltrb: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy from locations (..., 2) and distances (..., 4); undoes encode_ltrb."""
    return torch.cat([locations - ltrb[..., :2], locations + ltrb[..., 2:]], dim=-1)
