"""The check of a config: all values of a model that are wrong, found at once."""

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

from ..arguments import (
    NAME,
    Arguments,
    Rule,
    check_registered,
    get,
    integer,
    is_list,
    is_number,
    list_of,
    one_of,
)
from ..errors import Collector, InputError
from .acceleration import ACCELERATION_ARGUMENTS
from .assignment import TARGET_ASSIGNER_REGISTRY
from .assignment.fcos import ASSIGNER_ARGUMENTS
from .backbone.builders import find_backbone_faults
from .head import HEAD_ARGUMENTS, HEAD_REGISTRY
from .levels import LEVELS_ARGUMENTS
from .losses.criterion import LOSSES_ARGUMENTS
from .num_classes import NUM_CLASSES_ARGUMENTS, ROI_NUM_CLASSES_ARGUMENTS
from .pixel_statistics import PIXEL_ARGUMENTS
from .postprocessing import POSTPROCESSOR_ARGUMENTS
from .proposal_generator import PROPOSAL_ARGUMENTS
from .two_stage import find_two_stage_faults

__all__ = ["FCOS_ARGUMENTS", "MODEL_ARGUMENTS", "TTA_ARGUMENTS", "find_config_faults"]

FCOS_ARGUMENTS = Arguments(
    "MODEL.FCOS",
    in_features=list_of(NAME, at_least=1),
    head=Rule("a name in HEAD_REGISTRY", NAME.holds),
    target_assigner=Rule("a name in TARGET_ASSIGNER_REGISTRY", NAME.holds),
    inference_dtype=one_of("float32", "bfloat16", "float16"),
)
_SIZE_RANGE = Rule(
    "[lowest, highest] in pixels with 0 <= lowest < highest, or with -1 as highest for no limit",
    lambda value: (
        is_list(value)
        and len(value) == 2
        and all(is_number(x) for x in value)
        and value[0] >= 0
        and (value[0] < value[1] or value[1] == -1)
    ),
)
# The arguments of ``test_time_augmentation.FCOSWithTTA``, which is built around a model.
TTA_ARGUMENTS = Arguments(
    "MODEL.FCOS",
    elsewhere={"batch_size": ""},
    tta_size_ranges=list_of(_SIZE_RANGE),
    batch_size=integer(at_least=1),
)
MODEL_ARGUMENTS = (
    NUM_CLASSES_ARGUMENTS,
    ROI_NUM_CLASSES_ARGUMENTS,
    FCOS_ARGUMENTS,
    PIXEL_ARGUMENTS,
    HEAD_ARGUMENTS,
    LEVELS_ARGUMENTS,
    ASSIGNER_ARGUMENTS,
    LOSSES_ARGUMENTS,
    POSTPROCESSOR_ARGUMENTS,
    PROPOSAL_ARGUMENTS,
    TTA_ARGUMENTS,
    ACCELERATION_ARGUMENTS,
)
_REGISTRIES = {
    "META_ARCHITECTURE": META_ARCH_REGISTRY,
    "BACKBONE.NAME": BACKBONE_REGISTRY,
    "FCOS.HEAD": HEAD_REGISTRY,
    "FCOS.TARGET_ASSIGNER": TARGET_ASSIGNER_REGISTRY,
}


def find_config_faults(cfg: CfgNode) -> list[InputError]:
    """
    Find the values that break the rule of their key, and the names that are not registered.

    Whether the parts of the model fit together is checked when they are built.

    Args:
        cfg (CfgNode): A config with the keys of ``add_fcos_config``.

    Returns:
        list[InputError]: An error for each fault, which is not raised.
    """
    collect = Collector()
    for key, registry in _REGISTRIES.items():
        collect(check_registered, f"MODEL.{key}", get(cfg.MODEL, key), registry)
    faults = [fault for arguments in MODEL_ARGUMENTS for fault in arguments.faults(cfg)]
    return [*faults, *find_backbone_faults(cfg), *collect.faults, *find_two_stage_faults(cfg)]
