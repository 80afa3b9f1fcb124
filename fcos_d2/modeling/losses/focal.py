"""
The class loss of FCOS: the sigmoid focal loss of the raw maps.

The label of each location is its class. The one-hot targets, locations x classes, are never built.

N = images, K = classes, L = levels, R = locations of an image over all levels, Hi x Wi = cells of
level i.
"""

from collections.abc import Sequence
from typing import Protocol

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

    First all logits are treated as negatives. Then the loss is corrected at the few positives.

    Args:
        cls_logits (list[Tensor]): L maps (N, K, Hi, Wi).
        labels (Tensor): (N, R) int64 label of each location: a class, or K for background, or -1
            for ignored locations, which do not contribute to the loss.
        alpha (float): Weight of positives; the weight of negatives is 1 - alpha.
        gamma (float): Exponent of the modulating factor.
        ignores (bool): Whether labels may be -1. False saves two passes over the maps.

    Returns:
        Tensor: () float32.
    """
    maps = [x.flatten(2) for x in cls_logits]  # L of (N, K, Hi*Wi)
    return _FocalLossSum.apply(labels, ignores, alpha, gamma, *maps)  # ()


class _Context(Protocol):
    """The context object that PyTorch passes to an autograd function, as far as it is used here."""

    dtype: torch.dtype
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Save tensors for the backward pass."""


class _FocalLossSum(torch.autograd.Function):
    """
    The summed focal loss, whose gradients are computed in the forward pass.

    The gradients are then the only tensors that are kept for the backward pass. With
    p = sigmoid(x) and s(x) = softplus(x) = -log(1 - p):

        negative:    (1 - alpha) p^gamma s(x)
        derivative:  (1 - alpha) p^gamma (gamma (1 - p) s(x) + p)

        positive:    alpha (1 - p)^gamma s(-x), the negative at -x with the other weight
    """

    @staticmethod
    def forward(
        ctx: _Context,
        labels: Tensor,
        ignores: bool,
        alpha: float,
        gamma: float,
        *maps: Tensor,
    ) -> Tensor:
        """Compute the loss and its gradients; see ``focal_loss_sum`` for the arguments."""
        sizes = [x.shape[2] for x in maps]
        num_classes = maps[0].shape[1]
        is_positive = labels < num_classes  # (N, R)
        if ignores:
            is_positive &= labels >= 0  # (N, R)
        # At each location, the logit of its class; at background, the logit of class 0 as a dummy.
        classes = labels.where(is_positive, 0)[:, None].split(sizes, dim=2)  # L of (N, 1, Hi*Wi)
        class_logits = [x.gather(1, index) for x, index in zip(maps, classes, strict=True)]
        logits = torch.cat(class_logits, dim=2)[:, 0].float()  # (N, R)
        # Losses and gradients of these logits, (N, R) each.
        negative_loss, negative_grad = _negative_focal_loss(logits, 1 - alpha, gamma)
        positive_loss, positive_grad = _negative_focal_loss(-logits, alpha, gamma)
        total = torch.where(is_positive, positive_loss - negative_loss, 0).sum()
        class_grads = torch.where(is_positive, -positive_grad, negative_grad)  # (N, R)
        class_grads = class_grads[:, None].split(sizes, dim=2)  # L of (N, 1, Hi*Wi)
        is_ignored = (labels < 0)[:, None].split(sizes, dim=2) if ignores else ()
        grads = []
        for level, x in enumerate(maps):  # (N, K, Hi*Wi)
            loss, grad = _negative_focal_loss(x.float(), 1 - alpha, gamma)  # (N, K, Hi*Wi) each
            grad.scatter_(1, classes[level], class_grads[level])  # (N, K, Hi*Wi)
            if ignores:
                loss.masked_fill_(is_ignored[level], 0)  # (N, K, Hi*Wi)
                grad.masked_fill_(is_ignored[level], 0)  # (N, K, Hi*Wi)
            total = total + loss.sum()
            # In float16, the gradients of confident negatives (1e-6) would be rounded to 0 before
            # the loss scaling of mixed precision is applied.
            grads.append(grad if x.dtype == torch.float16 else grad.to(x.dtype))
        ctx.save_for_backward(*grads)
        ctx.dtype = maps[0].dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that were computed in the forward pass, L of (N, K, Hi*Wi)."""
        grads = [(grad * grad_output).to(ctx.dtype) for grad in ctx.saved_tensors]
        return None, None, None, None, *grads


# --8<-- [start:negatives]
def _negative_focal_loss(x: Tensor, weight: float, gamma: float) -> tuple[Tensor, Tensor]:
    """
    Compute weight * p^gamma * softplus(x) with p = sigmoid(x), and its derivative.

    Args:
        x (Tensor): Logits of any shape.
        weight (float): Factor of the loss.
        gamma (float): Exponent of the modulating factor.

    Returns:
        tuple[Tensor, Tensor]: Loss and derivative, each of the shape of ``x``.
    """
    # Every tensor here has the shape of x.
    p = x.sigmoid()
    softplus = F.softplus(x)
    modulator = (p**gamma).mul_(weight)
    # These operations are in place, because each tensor is as large as the logits, and allocating
    # memory takes longer than the arithmetic.
    grad = p.addcmul_(softplus, 1 - p, value=gamma).mul_(modulator)
    return softplus.mul_(modulator), grad
    # --8<-- [end:negatives]
