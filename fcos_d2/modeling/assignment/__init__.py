"""Target assignment: which location learns which box."""

from .fcos import FCOSAssigner
from .ignore_boxes import locations_in_boxes
from .registry import TARGET_ASSIGNER_REGISTRY, TargetAssigner, build_target_assigner
from .targets import LocationTargets

__all__ = [
    "TARGET_ASSIGNER_REGISTRY",
    "FCOSAssigner",
    "LocationTargets",
    "TargetAssigner",
    "build_target_assigner",
    "locations_in_boxes",
]
