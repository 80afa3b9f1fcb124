"""The backbones that are registered in detectron2: each a bottom-up network with a neck."""

import re
from collections.abc import Callable, Mapping

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from ...arguments import Arguments
from ...errors import InputError
from ...registration import register_in
from .bifpn import BIFPN_ARGUMENTS, build_fcos_bifpn
from .fpn import FPN_ARGUMENTS, build_fcos_fpn
from .resnet import RESNET_ARGUMENTS, build_fcos_resnet
from .timm_network import TIMM_ARGUMENTS, build_fcos_timm_bottom_up

__all__ = [
    "BACKBONE_ARGUMENTS",
    "NECKS",
    "NETWORKS",
    "build_fcos_backbone",
    "build_fcos_resnet_bifpn_backbone",
    "build_fcos_resnet_fpn_backbone",
    "build_fcos_timm_bifpn_backbone",
    "build_fcos_timm_fpn_backbone",
    "find_backbone_faults",
]

NETWORKS: Mapping[str, Callable[[CfgNode, ShapeSpec], Backbone]] = {
    "resnet": build_fcos_resnet,
    "timm": build_fcos_timm_bottom_up,
}
NECKS: Mapping[str, Callable[[CfgNode, Backbone], Backbone]] = {
    "fpn": build_fcos_fpn,
    "bifpn": build_fcos_bifpn,
}
BACKBONE_ARGUMENTS: Mapping[str, Arguments] = {
    "resnet": RESNET_ARGUMENTS,
    "timm": TIMM_ARGUMENTS,
    "fpn": FPN_ARGUMENTS,
    "bifpn": BIFPN_ARGUMENTS,
}


def find_backbone_faults(cfg: CfgNode) -> list[InputError]:
    """
    Find the values of a config that break the rules of its backbone.

    Args:
        cfg (CfgNode): The config.

    Returns:
        list[InputError]: An error for each fault; none if the backbone is not one of this module.
    """
    names = re.fullmatch("build_fcos_(.*)_(.*)_backbone", cfg.MODEL.BACKBONE.NAME)
    used = [BACKBONE_ARGUMENTS.get(name) for name in names.groups()] if names else []
    return [fault for arguments in used if arguments for fault in arguments.faults(cfg)]


def build_fcos_backbone(cfg: CfgNode, input_shape: ShapeSpec, network: str, neck: str) -> Backbone:
    """
    Build a bottom-up network with a neck.

    Args:
        cfg (CfgNode): The config. Its keys MODEL.RESNETS or MODEL.TIMM, MODEL.BACKBONE.FREEZE_AT,
            MODEL.FPN, MODEL.BIFPN and MODEL.FCOS.TOP_* are read.
        input_shape (ShapeSpec): Channels of the image.
        network (str): A name in ``NETWORKS``.
        neck (str): A name in ``NECKS``.

    Returns:
        Backbone: A backbone with the maps "p3", "p4", ... and their strides in ``output_shape()``.

    Raises:
        InputError: If the network or the neck cannot be built with the values of the config.
    """
    return NECKS[neck](cfg, NETWORKS[network](cfg, input_shape))


@register_in(BACKBONE_REGISTRY)
def build_fcos_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build detectron2's ResNet with its FPN and the extra levels of FCOS."""
    return build_fcos_backbone(cfg, input_shape, "resnet", "fpn")


@register_in(BACKBONE_REGISTRY)
def build_fcos_resnet_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build detectron2's ResNet with a BiFPN."""
    return build_fcos_backbone(cfg, input_shape, "resnet", "bifpn")


@register_in(BACKBONE_REGISTRY)
def build_fcos_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build a network of timm with detectron2's FPN and the extra levels of FCOS."""
    return build_fcos_backbone(cfg, input_shape, "timm", "fpn")


@register_in(BACKBONE_REGISTRY)
def build_fcos_timm_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build a network of timm with a BiFPN."""
    return build_fcos_backbone(cfg, input_shape, "timm", "bifpn")
