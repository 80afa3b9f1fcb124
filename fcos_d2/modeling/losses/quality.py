"""
What the quality branch learns: how good the box of a location is.

C = (location, box) pairs.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .box import ltrb_iou

__all__ = ["QUALITIES", "Quality", "centerness_targets"]


class Quality(NamedTuple):
    """
    A quality, one line of ``QUALITIES``.

    Attributes:
        loss_name (str): under which its loss is logged.
        compute_targets (Callable): from predicted and target distances (C, 4) in pixels to the
            targets (C,) from 0 to 1. No gradient flows through the predicted ones.
    """

    loss_name: str
    compute_targets: Callable[[Tensor, Tensor], Tensor]


# --8<-- [start:centerness]
def centerness_targets(ltrb: Tensor) -> Tensor:
    """
    Compute center-ness: 1 in the middle of a box, toward 0 at its sides (arXiv:1904.01355, eq. 3).

    Args:
        ltrb (Tensor): (..., 4) distances, all > 0.

    Returns:
        Tensor: (...) sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)).
    """
    near = torch.minimum(ltrb[..., :2], ltrb[..., 2:])
    far = torch.maximum(ltrb[..., :2], ltrb[..., 2:])
    return (near / far).prod(dim=-1).sqrt()
    # --8<-- [end:centerness]


def _centerness_of_targets(pred_ltrb: Tensor, target_ltrb: Tensor) -> Tensor:
    return centerness_targets(target_ltrb)


# Values of MODEL.FCOS.BOX_QUALITY; besides them there is "none".
QUALITIES: dict[str, Quality] = {
    "centerness": Quality("loss_fcos_ctr", _centerness_of_targets),
    "iou": Quality("loss_fcos_iou", ltrb_iou),
}
