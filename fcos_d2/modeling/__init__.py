"""
The parts of FCOS.

In the order of the data:

- ``pixel_statistics``, ``annotations``, ``copy_to_device``: checks of the input, and its copy to
  the device.
- ``backbone``: from images to feature maps (ResNet or timm, with FPN or BiFPN).
- ``levels``: strides and locations of the feature maps, and boxes from distances.
- ``head``, with ``tower`` and ``layers``: from feature maps to raw predictions.
- ``predictions``: ``DensePredictions``, the raw predictions.
- ``assignment``: in training, which location learns which ground-truth box.
- ``losses``: in training, the losses of predictions and targets.
- ``candidates``, ``nms``, ``postprocessing``: in inference, detections.
- ``fixed_shape_candidates``, ``fixed_shape_detections``: the same in tensors whose shapes do not
  depend on the data.

And around them:

- ``dense_head``: all parts after the backbone as one object.
- ``fcos``: the meta-architecture, which joins backbone and dense head.
- ``proposal_generator``: the dense head in detectron2's two-stage detectors.
- ``two_stage``, ``two_stage_losses``: their config, and their validation losses.
- ``build``: models of any meta-architecture.
- ``num_classes``: the number of classes, from the config or the dataset.
- ``config_checks``: the check of all config values of a model.
- ``acceleration``: speed options.
- ``cuda_graphs``: all kernels of a network launched at once on a GPU.
- ``module_hooks``: hooks, because of which a module is neither folded nor recorded.
"""

from .acceleration import Acceleration, prepare_for_speed
from .assignment import (
    TARGET_ASSIGNER_REGISTRY,
    FCOSAssigner,
    LocationTargets,
    TargetAssigner,
    locations_in_boxes,
)
from .backbone import (
    BiFPN,
    TimmBackbone,
    build_fcos_resnet_bifpn_backbone,
    build_fcos_resnet_fpn_backbone,
    build_fcos_timm_bifpn_backbone,
    build_fcos_timm_fpn_backbone,
)
from .build import build_model
from .candidates import Candidates, ScoreFunction
from .dense_head import FCOSDenseHead, find_dense_heads
from .fcos import FCOS
from .head import HEAD_REGISTRY, FCOSHead, HeadNetwork
from .levels import Levels, flatten_levels, gather_locations, select_maps
from .losses import QUALITIES, ExtraTerms, FCOSLosses, LossTerm, LossTerms, Quality
from .nms import class_wise_nms
from .num_classes import num_classes_key, resolve_num_classes
from .postprocessing import FCOSPostProcessor
from .predictions import DensePredictions
from .proposal_generator import FCOSProposalGenerator

__all__ = [
    "FCOS",
    "HEAD_REGISTRY",
    "QUALITIES",
    "TARGET_ASSIGNER_REGISTRY",
    "Acceleration",
    "BiFPN",
    "Candidates",
    "DensePredictions",
    "ExtraTerms",
    "FCOSAssigner",
    "FCOSDenseHead",
    "FCOSHead",
    "FCOSLosses",
    "FCOSPostProcessor",
    "FCOSProposalGenerator",
    "HeadNetwork",
    "Levels",
    "LocationTargets",
    "LossTerm",
    "LossTerms",
    "Quality",
    "ScoreFunction",
    "TargetAssigner",
    "TimmBackbone",
    "build_fcos_resnet_bifpn_backbone",
    "build_fcos_resnet_fpn_backbone",
    "build_fcos_timm_bifpn_backbone",
    "build_fcos_timm_fpn_backbone",
    "build_model",
    "class_wise_nms",
    "find_dense_heads",
    "flatten_levels",
    "gather_locations",
    "locations_in_boxes",
    "num_classes_key",
    "prepare_for_speed",
    "resolve_num_classes",
    "select_maps",
]
