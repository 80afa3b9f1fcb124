"""The parts of FCOS, in the order of the data."""

from .backbone import build_fcos_resnet_fpn_backbone
from .bifpn import BiFPN, build_fcos_resnet_bifpn_backbone, build_fcos_timm_bifpn_backbone
from .fcos import FCOS
from .head import FCOSHead
from .target_assignment import TARGET_ASSIGNER_REGISTRY, FCOSAssigner
from .timm_backbone import TimmBackbone, build_fcos_timm_fpn_backbone

__all__ = [
    "FCOS",
    "TARGET_ASSIGNER_REGISTRY",
    "BiFPN",
    "FCOSAssigner",
    "FCOSHead",
    "TimmBackbone",
    "build_fcos_resnet_bifpn_backbone",
    "build_fcos_resnet_fpn_backbone",
    "build_fcos_timm_bifpn_backbone",
    "build_fcos_timm_fpn_backbone",
]
