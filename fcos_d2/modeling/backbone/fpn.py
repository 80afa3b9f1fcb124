"""Backbones with the pyramid of FCOS: detectron2's FPN, and extra levels on top of P5 or C5."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet
from torch import Tensor, nn

from ...config_rules import check_value, check_values
from ...errors import InputError
from ...registration import register_in
from ..layers.deformable import DeformBottleneck

__all__ = [
    "LastLevelP6",
    "build_fcos_fpn",
    "build_fcos_resnet",
    "build_fcos_resnet_fpn_backbone",
    "build_fcos_top_block",
    "check_in_features",
    "read_top_levels",
]

_NUM_BASIC_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # of the stages res2 to res5


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


def read_top_levels(cfg: Any) -> int:
    """
    MODEL.FCOS.TOP_LEVELS: how many levels lie on top of those that come from the bottom-up network.

    Raises:
        InputError: a number of levels that FCOS does not have.
    """
    check_value("MODEL.FCOS.TOP_LEVELS", cfg.MODEL.FCOS.TOP_LEVELS)
    return int(cfg.MODEL.FCOS.TOP_LEVELS)


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
    fcos = cfg.MODEL.FCOS
    blocks: dict[int, Callable[..., nn.Module]] = {1: LastLevelP6, 2: LastLevelP6P7}
    top_levels = read_top_levels(cfg)
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
    in_feature = fcos.TOP_IN_FEATURE
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
        InputError: see :func:`check_in_features` and :func:`build_fcos_top_block`.
    """
    check_in_features(cfg.MODEL.FPN.IN_FEATURES, bottom_up)
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=build_fcos_top_block(cfg, bottom_up),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def build_fcos_resnet(cfg: Any, input_shape: ShapeSpec) -> Backbone:
    """
    detectron2's ResNet (MODEL.RESNETS), of any width and with deformable stages.

    Args:
        cfg (CfgNode): ResNet-18 and 34 may be narrower than detectron2 builds them
            (RES2_OUT_CHANNELS below 64), to learn small data on a CPU.
        input_shape (ShapeSpec): channels of the image.

    Raises:
        InputError: DEFORM_ON_PER_STAGE is set for a ResNet without bottlenecks.
    """
    resnets = cfg.MODEL.RESNETS
    keys = ("DEFORM_ON_PER_STAGE", "DEFORM_MODULATED", "DEFORM_NUM_GROUPS")
    check_values({f"MODEL.RESNETS.{key}": resnets[key] for key in keys})
    if any(resnets.DEFORM_ON_PER_STAGE):
        return _build_deformable_resnet(cfg, input_shape)
    if resnets.DEPTH in _NUM_BASIC_BLOCKS and resnets.RES2_OUT_CHANNELS != 64:
        return _build_narrow_resnet(cfg, input_shape)
    return build_resnet_backbone(cfg, input_shape)


@register_in(BACKBONE_REGISTRY)
def build_fcos_resnet_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> Backbone:
    """
    detectron2's ResNet and FPN with the extra levels of FCOS.

    Args:
        cfg (CfgNode): MODEL.RESNETS, MODEL.FPN and MODEL.FCOS.TOP_* are read.
        input_shape (ShapeSpec): channels of the image.

    Returns:
        Backbone: maps "p3", "p4", ...; strides are in its ``output_shape()``.

    Raises:
        InputError: see :func:`build_fcos_resnet` and :func:`build_fcos_fpn`.
    """
    return build_fcos_fpn(cfg, build_fcos_resnet(cfg, input_shape))


def _build_narrow_resnet(cfg: Any, input_shape: ShapeSpec) -> Backbone:
    """ResNet-18 or 34 of any width: detectron2's builder asserts the 64 channels of ImageNet's."""
    resnets = cfg.MODEL.RESNETS
    stages = []
    in_channels, out_channels = resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS
    for stage, num_blocks in enumerate(_NUM_BASIC_BLOCKS[resnets.DEPTH]):
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                num_blocks,
                stride_per_block=[1 if stage == 0 else 2] + [1] * (num_blocks - 1),
                in_channels=in_channels,
                out_channels=out_channels,
                norm=resnets.NORM,
            )
        )
        in_channels, out_channels = out_channels, 2 * out_channels
    stem = BasicStem(input_shape.channels, resnets.STEM_OUT_CHANNELS, norm=resnets.NORM)
    return ResNet(
        stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT
    )


def _build_deformable_resnet(cfg: Any, input_shape: ShapeSpec) -> ResNet:
    """detectron2's ResNet, in which blocks give way to those that need no compiled operator."""
    resnets = cfg.MODEL.RESNETS
    if resnets.DEPTH in _NUM_BASIC_BLOCKS:
        raise InputError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE = {list(resnets.DEFORM_ON_PER_STAGE)} is for "
            f"bottlenecks, which MODEL.RESNETS.DEPTH = {resnets.DEPTH} has none of: choose 50, 101 "
            "or 152."
        )
    plain_cfg = cfg.clone()
    plain_cfg.defrost()
    plain_cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False] * 4
    plain_cfg.MODEL.BACKBONE.FREEZE_AT = 0
    resnet = build_resnet_backbone(plain_cfg, input_shape)
    # zip stops at the last stage that OUT_FEATURES needs.
    for stage, is_deformable in zip(resnet.stages, resnets.DEFORM_ON_PER_STAGE, strict=False):
        for index, block in enumerate(stage if is_deformable else ()):
            stage[index] = DeformBottleneck(
                block.in_channels,
                block.out_channels,
                bottleneck_channels=block.conv2.out_channels,
                stride=block.stride,
                num_groups=block.conv2.groups,
                norm=resnets.NORM,
                stride_in_1x1=resnets.STRIDE_IN_1X1,
                dilation=block.conv2.dilation[0],
                deform_modulated=resnets.DEFORM_MODULATED,
                deform_num_groups=resnets.DEFORM_NUM_GROUPS,
            )
    return resnet.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
