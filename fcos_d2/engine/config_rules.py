"""The rules of all config keys of this project, collected from the constructors that read them."""

from collections.abc import Mapping

from detectron2.config import CfgNode

from ..arguments import TEXT, Arguments, Rule, is_integer, is_list, list_of
from ..config_checks import find_training_faults
from ..data.dataset_mapper import MAPPER_ARGUMENTS
from ..errors import Collector, InputError
from ..modeling.backbone.builders import BACKBONE_ARGUMENTS
from ..modeling.config_checks import MODEL_ARGUMENTS
from ..modeling.two_stage import proposes
from ..test_time_augmentation import find_tta_faults
from .optimizer import OPTIMIZER_ARGUMENTS
from .run_settings import RUN_ARGUMENTS, RunSettings
from .step_trainer import AMP_ARGUMENTS, resolve_amp_dtype
from .validation_loss import check_can_validate

__all__ = ["DATA_ARGUMENTS", "KEYPOINT_ARGUMENTS", "OWN_RULES", "TRAIN_ARGUMENTS", "find_faults"]

_DATASET = Rule(
    "a string NAME=ANNOTATIONS.json:IMAGES/",
    lambda value: isinstance(value, str) and ":" in value.partition("=")[2],
)
DATA_ARGUMENTS = Arguments(
    "FCOS_TRAIN", datasets=list_of(_DATASET), class_names=list_of(TEXT), drop_classes=list_of(TEXT)
)
_LINE = Rule(
    "a list [NAME, NAME, [RED, GREEN, BLUE]] with colors from 0 to 255",
    lambda value: (
        is_list(value)
        and len(value) == 3
        and all(isinstance(name, str) for name in value[:2])
        and is_list(value[2])
        and len(value[2]) == 3
        and all(is_integer(x) and 0 <= x <= 255 for x in value[2])
    ),
)
KEYPOINT_ARGUMENTS = Arguments(
    "FCOS_TRAIN", keypoint_names=list_of(TEXT), keypoint_skeleton=list_of(_LINE)
)
TRAIN_ARGUMENTS = (
    DATA_ARGUMENTS,
    KEYPOINT_ARGUMENTS,
    MAPPER_ARGUMENTS,
    OPTIMIZER_ARGUMENTS,
    AMP_ARGUMENTS,
    RUN_ARGUMENTS,
)
OWN_RULES: Mapping[str, Rule] = {
    key: arguments.rules[name]
    for arguments in (*MODEL_ARGUMENTS, *BACKBONE_ARGUMENTS.values(), *TRAIN_ARGUMENTS)
    for name, key in arguments.keys.items()
}


def find_faults(cfg: CfgNode, eval_only: bool = False) -> list[InputError]:
    """
    Find what is wrong with the config keys that a run reads and a model does not.

    Args:
        cfg (CfgNode): A config with the keys of ``add_train_config``.
        eval_only (bool): Don't check detectron2's keys that only training reads.
    """
    faults = [fault for arguments in TRAIN_ARGUMENTS for fault in arguments.faults(cfg)]
    faults += [*find_training_faults(cfg, eval_only), *find_tta_faults(cfg)]
    return faults if faults or eval_only else _find_conflicts(cfg)


def _find_conflicts(cfg: CfgNode) -> list[InputError]:
    """Find values that are valid separately, but not together."""
    collect = Collector()
    collect(RunSettings.from_config, cfg)
    if cfg.SOLVER.AMP.ENABLED:
        collect(resolve_amp_dtype, cfg.FCOS_TRAIN.AMP_DTYPE, cfg.MODEL.DEVICE)
    if cfg.FCOS_TRAIN.VALIDATION_LOSS:
        collect(check_can_validate, cfg)
    if cfg.FCOS_TRAIN.KEEP_CROWD_BOXES and proposes(cfg):
        key = "FCOS_TRAIN.KEEP_CROWD_BOXES"
        text = f"{key} = True: detectron2's two-stage detectors drop crowds. Set it to False."
        collect.faults.append(InputError(text, key=key, value=True))
    return collect.faults
