"""
The box loss of FCOS and the IoU, computed for pairs of boxes that contain the same location.

A = (location, gt box) pairs. Boxes are distances (left, top, right, bottom) from the location.
"""

import math

import torch
from torch import Tensor

__all__ = ["box_loss", "ltrb_iou"]

_EPS = 1e-7
_MIN_SIDE = 1e-3  # pixels; in aspect ratios, sides are clamped to at least this


def box_loss(pred_ltrb: Tensor, target_ltrb: Tensor, loss_type: str) -> Tensor:
    """
    Compute the box loss between boxes that contain the same location.

    These are the losses of torchvision.ops, but computed from distances instead of corners. Since
    both boxes contain the location, they always overlap. So disjoint boxes need no special
    handling, for which the host would have to wait for the GPU.

    Args:
        pred_ltrb (Tensor): (A, 4) float32 distances, >= 0.
        target_ltrb (Tensor): (A, 4) float32 distances, > 0, in the same unit. "ciou" requires
            pixels.
        loss_type (str): "giou": 1 - GIoU (arXiv:1902.09630); "diou": 1 - IoU + (distance of the
            centers / diagonal of the enclosing box)^2 (arXiv:1911.08287); "ciou": "diou" plus a
            term for the aspect ratio (arXiv:1911.08287); "iou": -log(IoU) (arXiv:1608.01471);
            "linear_iou": 1 - IoU.

    Returns:
        Tensor: (A,) losses. They and their gradients are finite, also for predicted boxes of width
        or height 0.
    """
    intersection, union = _intersection_and_union(pred_ltrb, target_ltrb)  # (A,) each
    iou = intersection / union.clamp(min=_EPS)  # (A,)
    if loss_type == "linear_iou":
        return 1 - iou  # (A,)
    if loss_type == "iou":
        return -iou.clamp(min=_EPS).log()  # (A,)
    enclosing = torch.maximum(pred_ltrb, target_ltrb)  # (A, 4), the smallest box around both
    if loss_type == "giou":
        enclosing_area = _areas(enclosing)  # (A,)
        return 1 - iou + (enclosing_area - union) / enclosing_area.clamp(min=_EPS)  # (A,)
    assert loss_type in ("diou", "ciou"), loss_type
    # Relative to the location, the center of a box is at ((r - l) / 2, (b - t) / 2).
    difference = pred_ltrb - target_ltrb  # (A, 4)
    center_shift = (difference[:, 2:] - difference[:, :2]) / 2  # (A, 2)
    squared_diagonal = _sizes(enclosing).square().sum(dim=1).clamp(min=_EPS)  # (A,)
    diou_loss = 1 - iou + center_shift.square().sum(dim=1) / squared_diagonal  # (A,)
    if loss_type == "diou":
        return diou_loss
    return diou_loss + _aspect_penalty(_sizes(pred_ltrb), _sizes(target_ltrb), iou)  # (A,)


def ltrb_iou(pred_ltrb: Tensor, target_ltrb: Tensor) -> Tensor:
    """
    Compute the IoU of boxes that contain the same location.

    Args:
        pred_ltrb (Tensor): (A, 4) distances, see ``box_loss``.
        target_ltrb (Tensor): (A, 4) distances, see ``box_loss``.

    Returns:
        Tensor: (A,) IoU, from 0 to 1.
    """
    intersection, union = _intersection_and_union(pred_ltrb, target_ltrb)  # (A,) each
    return intersection / union.clamp(min=_EPS)  # (A,)


def _sizes(ltrb: Tensor) -> Tensor:
    """Return the (A, 2) widths and heights of (A, 4) boxes."""
    return ltrb[:, :2] + ltrb[:, 2:]  # (A, 2)


def _areas(ltrb: Tensor) -> Tensor:
    """Return the (A,) areas of (A, 4) boxes."""
    # prod() is not used: its backward pass counts zeros, for which the host would wait for the GPU.
    widths, heights = _sizes(ltrb).unbind(1)  # (A,) each
    return widths * heights  # (A,)


def _intersection_and_union(pred_ltrb: Tensor, target_ltrb: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (A,) areas of the intersections and of the unions of (A, 4) boxes."""
    # The intersection of boxes that contain the same location has the smaller distances, (A, 4).
    intersection = _areas(torch.minimum(pred_ltrb, target_ltrb))
    return intersection, _areas(pred_ltrb) + _areas(target_ltrb) - intersection  # (A,) each


def _aspect_penalty(pred_sizes: Tensor, target_sizes: Tensor, iou: Tensor) -> Tensor:
    """
    Compute the penalty alpha * v of CIoU for the aspect ratio (arXiv:1911.08287).

    Args:
        pred_sizes (Tensor): (A, 2) widths and heights.
        target_sizes (Tensor): (A, 2) widths and heights.
        iou (Tensor): (A,) IoU of the boxes.

    Returns:
        Tensor: (A,) penalties. As in the paper, alpha has no gradient.
    """
    # The smaller the box, the larger the gradient of atan(w / h). The clamp keeps it finite.
    width, height = pred_sizes.clamp(min=_MIN_SIDE).unbind(1)  # (A,) each
    target_width, target_height = target_sizes.unbind(1)  # (A,) each
    angle = (target_width / target_height).atan() - (width / height).atan()  # (A,)
    v = 4 / math.pi**2 * angle.square()  # (A,)
    alpha = (v / (1 - iou + v).clamp(min=_EPS)).detach()  # (A,)
    return alpha * v  # (A,)
