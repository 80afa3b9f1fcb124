"""
Label assignment: which location learns which ground-truth box.

- ``registry``: the interface of a target assigner, and building one by name.
- ``fcos``: the assigner of FCOS, which uses the next four files.
- ``ranked_boxes``: the boxes of a batch, sorted by area.
- ``mask_centroids``: centroids of masks, as the centers for center sampling.
- ``size_ranges``: the levels that a box of a given size can be assigned to.
- ``windows``: the cells around a box that can be assigned to it.
- ``ignore_boxes``: the locations inside regions such as crowds.
- ``targets``: ``LocationTargets``, the result of the assignment.
"""

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
