"""The FPN neck: detectron2's FPN, with the extra levels of FCOS (P6 and P7) made from P5 or C5."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode
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
    """
    The block that makes one extra level, P6; detectron2's LastLevelP6P7 always makes two.

    Args:
        in_channels (int): Number of channels of the input map.
        out_channels (int): Number of channels of P6.
        in_feature (str): Name of the input map, which detectron2's FPN reads.
    """

    num_levels = 1

    def __init__(self, in_channels: int, out_channels: int, in_feature: str) -> None:
        super().__init__()
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)
        weight_init.c2_xavier_fill(self.p6)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute P6 from a map (N, C, Hi, Wi)."""
        return [self.p6(x)]


TOP_LEVELS = one_of(0, 1, 2)  # number of extra levels after the maps of the bottom-up network
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
    Check that a bottom-up network has the maps of a neck, and that each stride is twice the last.

    Args:
        names (list[str]): MODEL.FPN.IN_FEATURES, from fine to coarse.
        bottom_up (Backbone): The bottom-up network.

    Raises:
        InputError: If a map does not exist, or if a stride is not twice the previous stride.
    """
    shapes = bottom_up.output_shape()
    if not names or not set(names) <= set(shapes):
        raise InputError(
            f"MODEL.FPN.IN_FEATURES = {list(names)} must be maps of the bottom-up network; it "
            f"has {list(shapes)} (for a ResNet, they are set by MODEL.RESNETS.OUT_FEATURES).",
            key="MODEL.FPN.IN_FEATURES",
            value=list(names),
        )
    strides = [shapes[name].stride for name in names]
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise InputError(
            f"MODEL.FPN.IN_FEATURES = {list(names)} must go from fine to coarse, each with twice "
            f"the stride of the previous one; the strides are {strides}.",
            key="MODEL.FPN.IN_FEATURES",
            value=list(names),
        )


def build_fcos_top_block(cfg: CfgNode, bottom_up: Backbone) -> nn.Module | None:
    """
    Build the block that makes the extra levels P6 and P7 (arXiv:2006.09214, Sec. 2.2).

    Its input MODEL.FCOS.TOP_IN_FEATURE is the last map of the FPN ("p5"), or the last map of the
    bottom-up network ("res5", the C5 of RetinaNet). There is a ReLU before P7, and none before P6.

    Args:
        cfg (CfgNode): The config.
        bottom_up (Backbone): The bottom-up network.

    Returns:
        nn.Module | None: The block; None if MODEL.FCOS.TOP_LEVELS is 0.

    Raises:
        InputError: If the input map does not exist.
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
        # With any other map, the strides of the extra levels would not be those that are declared.
        raise InputError(
            f"MODEL.FCOS.TOP_IN_FEATURE = {in_feature!r} must be the coarsest map of the FPN or "
            f"the map that it is made from: one of {sorted(shapes)}.",
            key="MODEL.FCOS.TOP_IN_FEATURE",
            value=in_feature,
        )
    return blocks[top_levels](shapes[in_feature].channels, cfg.MODEL.FPN.OUT_CHANNELS, in_feature)


def build_fcos_fpn(cfg: CfgNode, bottom_up: Backbone) -> Backbone:
    """
    Build detectron2's FPN (MODEL.FPN) on a bottom-up network, with the extra levels of FCOS.

    Args:
        cfg (CfgNode): The config.
        bottom_up (Backbone): The bottom-up network.

    Raises:
        InputError: See ``check_in_features`` and ``build_fcos_top_block``.
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
