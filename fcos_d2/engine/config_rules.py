"""The rules of all keys of this project, from the constructors that take them."""

from collections.abc import Mapping

from detectron2.config import CfgNode

from ..arguments import FLAG, TEXT, Arguments, Rule, list_of, number
from ..config_checks import find_training_faults
from ..errors import InputError
from ..modeling.backbone.builders import BACKBONE_ARGUMENTS
from ..modeling.config_faults import MODEL_ARGUMENTS
from .autocast_trainer import AMP_ARGUMENTS
from .optimizer import OPTIMIZER_ARGUMENTS

__all__ = ["OWN_RULES", "TRAIN_ARGUMENTS", "find_faults"]

DATA_ARGUMENTS = Arguments(
    "FCOS_TRAIN",
    datasets=list_of(
        Rule(
            "a text NAME=ANNOTATIONS.json:IMAGES/",
            lambda value: isinstance(value, str) and ":" in value.partition("=")[2],
        )
    ),
    class_names=list_of(TEXT),
    keep_crowd_boxes=FLAG,
)
RUN_ARGUMENTS = Arguments(
    "FCOS_TRAIN",
    ema_decay=number("of at least 0 and below 1", lambda x: 0 <= x < 1),
    validation_loss=FLAG,
    best_metric=TEXT,
)
TRAIN_ARGUMENTS = (DATA_ARGUMENTS, OPTIMIZER_ARGUMENTS, AMP_ARGUMENTS, RUN_ARGUMENTS)
OWN_RULES: Mapping[str, Rule] = {
    key: arguments.rules[name]
    for arguments in (*MODEL_ARGUMENTS, *BACKBONE_ARGUMENTS.values(), *TRAIN_ARGUMENTS)
    for name, key in arguments.keys.items()
}


def find_faults(cfg: CfgNode, eval_only: bool = False) -> list[InputError]:
    """
    Find what is wrong with the keys that runs read, and no model.

    Args:
        cfg (CfgNode): with the keys of ``add_train_config``.
        eval_only (bool): what only a training reads may have any value.
    """
    faults = [fault for arguments in TRAIN_ARGUMENTS for fault in arguments.faults(cfg)]
    return [*faults, *find_training_faults(cfg, eval_only)]
