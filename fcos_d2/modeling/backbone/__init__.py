"""Backbones: networks (detectron2's ResNet, timm) under necks (FPN, BiFPN)."""

from .bifpn import BiFPN
from .builders import (
    build_fcos_backbone,
    build_fcos_resnet_bifpn_backbone,
    build_fcos_resnet_fpn_backbone,
    build_fcos_timm_bifpn_backbone,
    build_fcos_timm_fpn_backbone,
)
from .timm_network import TimmBackbone

__all__ = [
    "BiFPN",
    "TimmBackbone",
    "build_fcos_backbone",
    "build_fcos_resnet_bifpn_backbone",
    "build_fcos_resnet_fpn_backbone",
    "build_fcos_timm_bifpn_backbone",
    "build_fcos_timm_fpn_backbone",
]
