"""detectron2's ResNet as the bottom-up network, optionally narrow or with deformable stages."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_resnet_backbone
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet

from ...arguments import FLAG, Arguments, Rule, integer, is_list, one_of, raise_faults
from ...errors import InputError
from ..layers.deformable import DeformBottleneck
from ..layers.norms import DETECTRON2_NORM

__all__ = ["RESNET_ARGUMENTS", "build_fcos_resnet"]

_NUM_BASIC_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # by depth, for res2 to res5


RESNET_ARGUMENTS = Arguments(
    "MODEL.RESNETS",
    depth=one_of(18, 34, 50, 101, 152),
    norm=DETECTRON2_NORM,
    deform_on_per_stage=Rule(
        "a list of four times True or False, for res2 to res5",
        lambda value: (
            is_list(value) and len(value) == 4 and all(isinstance(x, bool) for x in value)
        ),
    ),
    deform_modulated=FLAG,
    deform_num_groups=integer(at_least=1),
)


def build_fcos_resnet(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """
    Build detectron2's ResNet (MODEL.RESNETS).

    There are two differences from detectron2's builder. ResNet-18 and 34 may be narrow
    (RES2_OUT_CHANNELS below 64), for small datasets on a CPU. Deformable stages do not need a
    compiled operator.

    Args:
        cfg (CfgNode): The config.
        input_shape (ShapeSpec): Channels of the image.

    Raises:
        InputError: If DEFORM_ON_PER_STAGE is set for a ResNet without bottleneck blocks.
    """
    resnets = cfg.MODEL.RESNETS
    raise_faults([RESNET_ARGUMENTS.faults(cfg)])
    if any(resnets.DEFORM_ON_PER_STAGE):
        return _build_deformable_resnet(cfg, input_shape)
    if resnets.DEPTH in _NUM_BASIC_BLOCKS and resnets.RES2_OUT_CHANNELS != 64:
        return _build_narrow_resnet(cfg, input_shape)
    return build_resnet_backbone(cfg, input_shape)


def _build_narrow_resnet(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build a ResNet-18 or 34 of any width; detectron2's builder requires 64 channels in res2."""
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


def _build_deformable_resnet(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build detectron2's ResNet with ``DeformBottleneck`` blocks in its deformable stages."""
    resnets = cfg.MODEL.RESNETS
    if resnets.DEPTH in _NUM_BASIC_BLOCKS:
        raise InputError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE = {list(resnets.DEFORM_ON_PER_STAGE)} is for "
            f"bottlenecks, but MODEL.RESNETS.DEPTH = {resnets.DEPTH} has none: choose 50, 101 or "
            "152.",
            key="MODEL.RESNETS.DEFORM_ON_PER_STAGE",
            value=list(resnets.DEFORM_ON_PER_STAGE),
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
