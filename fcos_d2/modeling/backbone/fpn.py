"""The neck of FCOS: detectron2's FPN, and extra levels on top of P5 or C5."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from torch import Tensor, nn

from ...arguments import NAME, Arguments, integer, one_of, raise_faults
from ...errors import InputError
from ..layers.norms import DETECTRON2_NORM

__all__ = [
    "FPN_ARGUMENTS",
    "TOP_LEVELS",
    "LastLevelP6",
    "build_fcos_fpn",
    "build_fcos_top_block",
    "check_in_features",
]


class LastLevelP6(nn.Module):
    """One extra level, P6 alone (detectron2's LastLevelP6P7 always makes both)."""

    num_levels = 1

    def __init__(self, in_channels: int, out_channels: int, in_feature: str) -> None:
        super().__init__()
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)
        weight_init.c2_xavier_fill(self.p6)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.p6(x)]


TOP_LEVELS = one_of(0, 1, 2)  # how many lie on top of those of the bottom-up network
FPN_ARGUMENTS = Arguments(
    "MODEL.FPN",
    elsewhere={"top_levels": "MODEL.FCOS", "top_in_feature": "MODEL.FCOS"},
    top_levels=TOP_LEVELS,
    top_in_feature=NAME,
    out_channels=integer(at_least=1),
    norm=DETECTRON2_NORM,
)


def check_in_features(names: Sequence[str], bottom_up: Backbone) -> None:
    """
    Args:
        names (list[str]): MODEL.FPN.IN_FEATURES, from fine to coarse.
        bottom_up (Backbone): that is to give them.

    Raises:
        InputError: it does not, or a stride is not twice the one before.
    """
    shapes = bottom_up.output_shape()
    if not names or not set(names) <= set(shapes):
        raise InputError(
            f"MODEL.FPN.IN_FEATURES = {list(names)} must be maps of the bottom-up network; it "
            f"gives {list(shapes)} (a ResNet those of MODEL.RESNETS.OUT_FEATURES)."
        )
    strides = [shapes[name].stride for name in names]
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise InputError(
            f"MODEL.FPN.IN_FEATURES = {list(names)} must go from fine to coarse, each of twice the "
            f"stride of the one before; the strides are {strides}."
        )


def build_fcos_top_block(cfg: Any, bottom_up: Backbone) -> nn.Module | None:
    """
    The block that makes P6 and P7 (arXiv:2006.09214, Sec. 2.2), as MODEL.FCOS asks for.

    Its input is the last map of the FPN ("p5": no ReLU before P6, a ReLU before P7), or a map of
    the bottom-up network ("res5", the C5 of RetinaNet).

    Raises:
        InputError: a number of levels that FCOS does not have, or an input that does not exist.
    """
    blocks: dict[int, Callable[..., nn.Module]] = {1: LastLevelP6, 2: LastLevelP6P7}
    top_levels = cfg.MODEL.FCOS.TOP_LEVELS
    if top_levels == 0:
        return None
    shapes = dict(bottom_up.output_shape())
    last_name = cfg.MODEL.FPN.IN_FEATURES[-1]
    last_stride = shapes[last_name].stride
    last_level = f"p{last_stride.bit_length() - 1}"
    shapes = {
        last_name: shapes[last_name],
        last_level: ShapeSpec(channels=cfg.MODEL.FPN.OUT_CHANNELS),
    }
    in_feature = cfg.MODEL.FCOS.TOP_IN_FEATURE
    if in_feature not in shapes:
        # Any other map would have another stride than the extra levels are declared with.
        raise InputError(
            f"MODEL.FCOS.TOP_IN_FEATURE = {in_feature!r} must be the coarsest map of the FPN or "
            f"what it is made from: one of {sorted(shapes)}."
        )
    return blocks[top_levels](shapes[in_feature].channels, cfg.MODEL.FPN.OUT_CHANNELS, in_feature)


def build_fcos_fpn(cfg: Any, bottom_up: Backbone) -> Backbone:
    """
    detectron2's FPN (MODEL.FPN) on a bottom-up network, with the extra levels of FCOS.

    Raises:
        InputError: see ``check_in_features`` and ``build_fcos_top_block``.
    """
    raise_faults([FPN_ARGUMENTS.faults(cfg)])
    check_in_features(cfg.MODEL.FPN.IN_FEATURES, bottom_up)
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=build_fcos_top_block(cfg, bottom_up),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
