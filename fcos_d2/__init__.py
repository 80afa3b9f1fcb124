"""
FCOS for detectron2.

Importing this package adds to detectron2's registries:

- the meta-architecture ``FCOS``;
- the backbone builders ``build_fcos_resnet_fpn_backbone``, ``build_fcos_timm_fpn_backbone``,
  ``build_fcos_resnet_bifpn_backbone`` and ``build_fcos_timm_bifpn_backbone``;
- the datasets ``shapes_train`` and ``shapes_val``.
"""

try:
    import detectron2 as _detectron2
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    raise ImportError(
        "fcos_d2 is a plugin of detectron2, and detectron2 is not installed. Install it from its "
        "repository (see its INSTALL.md):\n"
        "    python -m pip install 'git+https://github.com/facebookresearch/detectron2.git'\n"
        "If you have no compiler, follow the section 'Install' in fcos_d2's README."
    ) from None

import warnings as _warnings
from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

with _warnings.catch_warnings():
    # fvcore and detectron2 call torch.jit.script when they are imported, which PyTorch has
    # deprecated. Users of this package can do nothing about these warnings.
    _warnings.filterwarnings("ignore", message="`torch.jit.script` is ")
    from detectron2 import modeling as _modeling

from .config import add_fcos_config, add_train_config, get_config_file, new_cfg
from .modeling import (
    FCOS,
    HEAD_REGISTRY,
    TARGET_ASSIGNER_REGISTRY,
    BiFPN,
    DensePredictions,
    FCOSAssigner,
    FCOSDenseHead,
    FCOSHead,
    FCOSLosses,
    FCOSPostProcessor,
    FCOSProposalGenerator,
    Levels,
    LocationTargets,
    TimmBackbone,
    build_fcos_resnet_bifpn_backbone,
    build_fcos_resnet_fpn_backbone,
    build_fcos_timm_bifpn_backbone,
    build_fcos_timm_fpn_backbone,
    resolve_num_classes,
)
from .version import __version__

if TYPE_CHECKING:
    from .prediction import Predictor
    from .test_time_augmentation import FCOSWithTTA

from . import data as _data  # isort: skip  # registers the shapes datasets

__all__ = [
    "FCOS",
    "HEAD_REGISTRY",
    "TARGET_ASSIGNER_REGISTRY",
    "BiFPN",
    "DensePredictions",
    "FCOSAssigner",
    "FCOSDenseHead",
    "FCOSHead",
    "FCOSLosses",
    "FCOSPostProcessor",
    "FCOSProposalGenerator",
    "FCOSWithTTA",
    "Levels",
    "LocationTargets",
    "Predictor",
    "TimmBackbone",
    "add_fcos_config",
    "add_train_config",
    "build_fcos_resnet_bifpn_backbone",
    "build_fcos_resnet_fpn_backbone",
    "build_fcos_timm_bifpn_backbone",
    "build_fcos_timm_fpn_backbone",
    "get_config_file",
    "new_cfg",
    "resolve_num_classes",
]


# These are imported when they are first used, because training does not need them.
_LAZY = {"FCOSWithTTA": ".test_time_augmentation", "Predictor": ".prediction"}


def __getattr__(name: str) -> Any:
    """Import a name of ``_LAZY``."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(_LAZY[name], __name__), name)
