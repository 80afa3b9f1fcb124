"""
The three losses of FCOS, as functions of raw maps and targets.

No target of the size locations x classes is ever built, and shapes do not depend on the data: a
mask tells which (location, box) pairs are positive.

N = images, K = classes, L = levels, R = locations of an image, C = (location, box) pairs.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["box_loss", "centerness_targets", "focal_loss_sum", "ltrb_iou"]

_EPS = 1e-7
_MIN_SIDE = 1e-3  # pixels; shorter sides count as this in an aspect ratio


def focal_loss_sum(
    cls_logits: Sequence[Tensor],
    labels: Tensor,
    alpha: float,
    gamma: float,
    is_ignored: Tensor | None = None,
) -> Tensor:
    """
    Sigmoid focal loss summed over all locations and classes (arXiv:1708.02002).

    Every logit is first taken for a negative; the few positives are then corrected.

    Args:
        cls_logits (list[Tensor]): L maps (N, K, Hi, Wi).
        labels (Tensor): (N, R) int64 class of each location, -1 = background.
        alpha (float): weight of positives, 1 - alpha that of negatives.
        gamma (float): exponent of the modulating factor.
        is_ignored (Tensor): (N, R) bool, locations that add nothing; none of them may be positive.

    Returns:
        Tensor: float32 scalar.
    """
    maps = [x.flatten(2) for x in cls_logits]  # (N, K, Hi*Wi)
    return _FocalLossSum.apply(labels, is_ignored, alpha, gamma, *maps)


class _FocalLossSum(torch.autograd.Function):
    """
    The sum, with the gradients formed on the way forward: they are the only tensors kept.

    With p = sigmoid(x) and s(x) = softplus(x) = -log(1 - p),
        negative: (1 - alpha) p^gamma s(x),        d/dx = (1 - alpha) p^gamma (gamma (1-p) s(x) + p)
        positive: alpha (1-p)^gamma s(-x), and its derivative is the above mirrored in x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        labels: Tensor,
        is_ignored: Tensor | None,
        alpha: float,
        gamma: float,
        *maps: Tensor,
    ) -> Tensor:
        sizes = [x.shape[2] for x in maps]
        is_positive = labels >= 0
        # Of each location the logit that may be a positive's; where there is none, any.
        classes = labels.clamp(min=0)[:, None].split(sizes, dim=2)  # L of (N, 1, Hi*Wi)
        at_class = torch.cat([x.gather(1, k) for x, k in zip(maps, classes, strict=True)], dim=2)
        logits = at_class[:, 0].float()  # (N, R)
        negative_loss, negative_grad = _negative_focal_loss(logits, 1 - alpha, gamma)
        positive_loss, positive_grad = _negative_focal_loss(-logits, alpha, gamma)
        total = torch.where(is_positive, positive_loss - negative_loss, 0).sum()
        new_grads = torch.where(is_positive, -positive_grad, negative_grad)
        new_grads = new_grads[:, None].split(sizes, dim=2)
        ignored = None if is_ignored is None else is_ignored[:, None].split(sizes, dim=2)
        grads = []
        for level, x in enumerate(maps):
            loss, grad = _negative_focal_loss(x.float(), 1 - alpha, gamma)
            grad.scatter_(1, classes[level], new_grads[level])
            if ignored is not None:
                loss.masked_fill_(ignored[level], 0)
                grad.masked_fill_(ignored[level], 0)
            total = total + loss.sum()
            # float16 would lose the gradients of confident negatives (1e-6) before they are scaled.
            grads.append(grad if x.dtype == torch.float16 else grad.to(x.dtype))
        ctx.save_for_backward(*grads)
        ctx.dtype = maps[0].dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grads = [(grad * grad_output).to(ctx.dtype) for grad in ctx.saved_tensors]
        return None, None, None, None, *grads


def _negative_focal_loss(x: Tensor, weight: float, gamma: float) -> tuple[Tensor, Tensor]:
    """weight p^gamma softplus(x) and its derivative, for any shape."""
    p = x.sigmoid()
    softplus = F.softplus(x)
    modulator = (p**gamma).mul_(weight)
    # In place: each of these is as large as the logits, and new memory costs more than arithmetic.
    grad = p.addcmul_(softplus, 1 - p, value=gamma).mul_(modulator)
    return softplus.mul_(modulator), grad


def box_loss(pred_ltrb: Tensor, target_ltrb: Tensor, loss_type: str) -> Tensor:
    """
    Loss between boxes that are seen from the same location.

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
    IoU of boxes that are seen from the same location.

    Args:
        pred_ltrb, target_ltrb (Tensor): as those of :func:`box_loss`.

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


def centerness_targets(ltrb: Tensor) -> Tensor:
    """
    1 in the middle of the box, towards 0 at its sides (arXiv:1904.01355, eq. 3).

    Args:
        ltrb (Tensor): (..., 4) distances, all > 0.

    Returns:
        Tensor: (...) sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)).
    """
    near = torch.minimum(ltrb[..., :2], ltrb[..., 2:])
    far = torch.maximum(ltrb[..., :2], ltrb[..., 2:])
    return (near / far).prod(dim=-1).sqrt()
