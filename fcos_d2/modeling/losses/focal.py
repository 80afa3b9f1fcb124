"""
The class loss of FCOS: focal loss of raw maps against the label of each location.

No target of the size locations x classes is ever built.

N = images, K = classes, L = levels, R = locations of an image, Hi x Wi = cells of level i.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["focal_loss_sum"]


def focal_loss_sum(
    cls_logits: Sequence[Tensor],
    labels: Tensor,
    alpha: float,
    gamma: float,
    *,
    ignores: bool = True,
) -> Tensor:
    """
    Compute the sigmoid focal loss, summed over all locations and classes (arXiv:1708.02002).

    Every logit is first taken for a negative; the few positives are then corrected.

    Args:
        cls_logits (list[Tensor]): L maps (N, K, Hi, Wi).
        labels (Tensor): (N, R) int64 class of each location, K = background, -1 = ignored: such a
            location adds nothing.
        alpha (float): weight of positives, 1 - alpha that of negatives.
        gamma (float): exponent of the modulating factor.
        ignores (bool): False: no label is -1, which saves two passes over the maps.

    Returns:
        Tensor: float32 scalar.
    """
    maps = [x.flatten(2) for x in cls_logits]  # (N, K, Hi*Wi)
    return _FocalLossSum.apply(labels, ignores, alpha, gamma, *maps)


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
        ignores: bool,
        alpha: float,
        gamma: float,
        *maps: Tensor,
    ) -> Tensor:
        sizes = [x.shape[2] for x in maps]
        num_classes = maps[0].shape[1]
        is_positive = labels < num_classes  # (N, R)
        if ignores:
            is_positive &= labels >= 0
        # Of each location the logit that may be a positive's; where there is none, any.
        classes = labels.where(is_positive, 0)[:, None].split(sizes, dim=2)  # L of (N, 1, Hi*Wi)
        at_class = torch.cat([x.gather(1, k) for x, k in zip(maps, classes, strict=True)], dim=2)
        logits = at_class[:, 0].float()  # (N, R)
        negative_loss, negative_grad = _negative_focal_loss(logits, 1 - alpha, gamma)
        positive_loss, positive_grad = _negative_focal_loss(-logits, alpha, gamma)
        total = torch.where(is_positive, positive_loss - negative_loss, 0).sum()
        new_grads = torch.where(is_positive, -positive_grad, negative_grad)
        new_grads = new_grads[:, None].split(sizes, dim=2)
        is_ignored = (labels < 0)[:, None].split(sizes, dim=2) if ignores else ()
        grads = []
        for level, x in enumerate(maps):
            loss, grad = _negative_focal_loss(x.float(), 1 - alpha, gamma)
            grad.scatter_(1, classes[level], new_grads[level])
            if ignores:
                loss.masked_fill_(is_ignored[level], 0)
                grad.masked_fill_(is_ignored[level], 0)
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


# --8<-- [start:negatives]
def _negative_focal_loss(x: Tensor, weight: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Weight p^gamma softplus(x) and its derivative, for any shape."""
    p = x.sigmoid()
    softplus = F.softplus(x)
    modulator = (p**gamma).mul_(weight)
    # In place: each of these is as large as the logits, and new memory costs more than arithmetic.
    grad = p.addcmul_(softplus, 1 - p, value=gamma).mul_(modulator)
    return softplus.mul_(modulator), grad
    # --8<-- [end:negatives]
