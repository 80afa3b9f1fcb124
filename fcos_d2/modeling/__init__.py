"""The parts of FCOS, in the order of the data."""

from .acceleration import Acceleration, prepare_for_speed
from .assignment import TARGET_ASSIGNER_REGISTRY, FCOSAssigner, LocationTargets, TargetAssigner
from .backbone import (
    BiFPN,
    TimmBackbone,
    build_fcos_resnet_bifpn_backbone,
    build_fcos_resnet_fpn_backbone,
    build_fcos_timm_bifpn_backbone,
    build_fcos_timm_fpn_backbone,
)
from .candidates import Candidates
from .dense_head import FCOSDenseHead
from .fcos import FCOS
from .head import HEAD_REGISTRY, FCOSHead, HeadNetwork
from .levels import Levels
from .losses import QUALITIES, FCOSLosses, LossTerm, LossTerms, Quality
from .num_classes import resolve_num_classes
from .postprocessing import FCOSPostProcessor
from .predictions import DensePredictions

__all__ = [
    "FCOS",
    "HEAD_REGISTRY",
    "QUALITIES",
    "TARGET_ASSIGNER_REGISTRY",
    "Acceleration",
    "BiFPN",
    "Candidates",
    "DensePredictions",
    "FCOSAssigner",
    "FCOSDenseHead",
    "FCOSHead",
    "FCOSLosses",
    "FCOSPostProcessor",
    "HeadNetwork",
    "Levels",
    "LocationTargets",
    "LossTerm",
    "LossTerms",
    "Quality",
    "TargetAssigner",
    "TimmBackbone",
    "build_fcos_resnet_bifpn_backbone",
    "build_fcos_resnet_fpn_backbone",
    "build_fcos_timm_bifpn_backbone",
    "build_fcos_timm_fpn_backbone",
    "prepare_for_speed",
    "resolve_num_classes",
]
