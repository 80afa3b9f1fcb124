"""
The box loss of FCOS, between boxes that are seen from the same location.

C = (location, box) pairs.
"""

import math

import torch
from torch import Tensor

__all__ = ["box_loss", "ltrb_iou"]

_EPS = 1e-7
_MIN_SIDE = 1e-3  # pixels; shorter sides count as this in an aspect ratio


def box_loss(pred_ltrb: Tensor, target_ltrb: Tensor, loss_type: str) -> Tensor:
    """
    Compute the loss between boxes that are seen from the same location.

    Both contain the location, so they always overlap: no case to tell apart, hence no mask to wait
    for, which is why these are not torchvision's losses on corners. The tests show the two equal.

    Args:
        pred_ltrb (Tensor): (C, 4) float32 distances, >= 0.
        target_ltrb (Tensor): (C, 4) float32 distances, > 0, in the same unit (pixels, where a
            limit of "ciou" counts).
        loss_type (str): "giou": 1 - GIoU (arXiv:1902.09630); "diou": 1 - IoU + (distance of the
            centres / diagonal of the hull)^2, and "ciou": the same with a term for the aspect ratio
            (arXiv:1911.08287); "iou": -log(IoU) (UnitBox, arXiv:1608.01471);
            "linear_iou": 1 - IoU.

    Returns:
        Tensor: (C,) losses, finite with finite gradients also where a prediction has no extent.
    """
    intersection, union = _intersection_and_union(pred_ltrb, target_ltrb)
    iou = intersection / union.clamp(min=_EPS)
    if loss_type == "linear_iou":
        return 1 - iou
    if loss_type == "iou":
        return -iou.clamp(min=_EPS).log()
    hull = torch.maximum(pred_ltrb, target_ltrb)
    if loss_type == "giou":
        hull_area = _areas(hull)
        return 1 - iou + (hull_area - union) / hull_area.clamp(min=_EPS)
    assert loss_type in ("diou", "ciou"), loss_type
    # The centre of a box lies at ((r - l) / 2, (b - t) / 2) from the location.
    difference = pred_ltrb - target_ltrb
    shift = (difference[:, 2:] - difference[:, :2]) / 2
    diagonal = _sizes(hull).square().sum(dim=1).clamp(min=_EPS)
    diou_loss = 1 - iou + shift.square().sum(dim=1) / diagonal
    if loss_type == "diou":
        return diou_loss
    return diou_loss + _aspect_penalty(_sizes(pred_ltrb), _sizes(target_ltrb), iou)


def ltrb_iou(pred_ltrb: Tensor, target_ltrb: Tensor) -> Tensor:
    """
    Compute the IoU of boxes that are seen from the same location.

    Args:
        pred_ltrb, target_ltrb (Tensor): as those of ``box_loss``.

    Returns:
        Tensor: (C,) from 0 to 1.
    """
    intersection, union = _intersection_and_union(pred_ltrb, target_ltrb)
    return intersection / union.clamp(min=_EPS)


def _sizes(ltrb: Tensor) -> Tensor:
    """(C, 2) widths and heights."""
    return ltrb[:, :2] + ltrb[:, 2:]


def _areas(ltrb: Tensor) -> Tensor:
    """(C,)"""
    # No prod(): on the way back it asks for the number of zeros, which waits for a GPU.
    widths, heights = _sizes(ltrb).unbind(1)
    return widths * heights


def _intersection_and_union(pred_ltrb: Tensor, target_ltrb: Tensor) -> tuple[Tensor, Tensor]:
    intersection = _areas(torch.minimum(pred_ltrb, target_ltrb))
    return intersection, _areas(pred_ltrb) + _areas(target_ltrb) - intersection


def _aspect_penalty(pred_sizes: Tensor, target_sizes: Tensor, iou: Tensor) -> Tensor:
    """CIoU's alpha * v (arXiv:1911.08287); alpha has no gradient."""
    # The slope of atan(w / h) is as steep as the box is small: without a limit, infinite.
    width, height = pred_sizes.clamp(min=_MIN_SIDE).unbind(1)
    target_width, target_height = target_sizes.unbind(1)
    angle = (target_width / target_height).atan() - (width / height).atan()
    v = 4 / math.pi**2 * angle.square()
    alpha = (v / (1 - iou + v).clamp(min=_EPS)).detach()
    return alpha * v
