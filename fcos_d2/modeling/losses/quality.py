"""
The targets of the quality branch: how good the box of a location is.

A = (location, gt box) pairs.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .box import ltrb_iou

__all__ = ["QUALITIES", "Quality", "centerness_targets"]


class Quality(NamedTuple):
    """
    A quality that the head can learn, an entry of ``QUALITIES``.

    Attributes:
        loss_name (str): Name of its loss.
        compute_targets (Callable): Computes the targets (A,), from 0 to 1, from the predicted and
            the target distances, (A, 4) each and in pixels. The predicted distances are detached.
    """

    loss_name: str
    compute_targets: Callable[[Tensor, Tensor], Tensor]


# --8<-- [start:centerness]
def centerness_targets(ltrb: Tensor) -> Tensor:
    """
    Compute center-ness, which is 1 at the center of a box and falls toward 0 at its sides.

    It is sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) (arXiv:1904.01355, eq. 3).

    Args:
        ltrb (Tensor): (..., 4) distances, all > 0.

    Returns:
        Tensor: (...,) center-ness.
    """
    # The smaller and the larger distance along each axis, (..., 2) each.
    near = torch.minimum(ltrb[..., :2], ltrb[..., 2:])
    far = torch.maximum(ltrb[..., :2], ltrb[..., 2:])
    return (near / far).prod(dim=-1).sqrt()
    # --8<-- [end:centerness]


def _centerness_of_targets(pred_ltrb: Tensor, target_ltrb: Tensor) -> Tensor:
    """Compute center-ness (A,), which depends only on the target distances (A, 4)."""
    return centerness_targets(target_ltrb)  # (A,)


# The values of MODEL.FCOS.BOX_QUALITY, except "none".
QUALITIES: dict[str, Quality] = {
    "centerness": Quality("loss_fcos_ctr", _centerness_of_targets),
    "iou": Quality("loss_fcos_iou", ltrb_iou),
}
