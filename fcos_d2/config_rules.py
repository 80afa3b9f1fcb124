"""
One rule a config key: what it must be, as a sentence and as a test.

The keys of this project are all here, and those of detectron2 that people get wrong most often.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import pairwise
from operator import getitem
from typing import Any, NamedTuple

from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

from .errors import InputError, nearest

__all__ = [
    "CONFIG_RULES",
    "LAZY_RULES",
    "Rule",
    "check_config",
    "check_registered",
    "check_training_config",
    "check_value",
    "check_values",
]


class Rule(NamedTuple):
    """``text`` completes "KEY = value must be ..."; ``holds`` tells whether a value keeps it."""

    text: str
    holds: Callable[[Any], bool]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _integer(at_least: int, or_exactly: int | None = None) -> Rule:
    extra = "" if or_exactly is None else f", or {or_exactly}"
    return Rule(
        f"an integer of at least {at_least}{extra}",
        lambda value: _is_integer(value) and (value >= at_least or value == or_exactly),
    )


def _number(text: str, holds: Callable[[float], bool]) -> Rule:
    return Rule(f"a number {text}", lambda value: _is_number(value) and holds(value))


def _one_of(*choices: Any) -> Rule:
    # By type too, or True would pass for 1.
    return Rule(
        f"one of {choices}",
        lambda value: any(type(value) is type(x) and value == x for x in choices),
    )


_FLAG = Rule("True or False", lambda value: isinstance(value, bool))
_TEXT = Rule("a text", lambda value: isinstance(value, str))
_NAME = Rule("a name", lambda value: isinstance(value, str) and value != "")
_NOT_NEGATIVE = _number("of at least 0", lambda x: x >= 0)
_POSITIVE = _number("above 0", lambda x: x > 0)
_SHARE = _number("from 0 to 1", lambda x: 0 <= x <= 1)


def _list_of(each: Rule, at_least: int = 0) -> Rule:
    return Rule(
        f"a list in which each is {each.text}"
        + (f", at least {at_least} of them" * (at_least > 0)),
        lambda value: (
            _is_list(value) and len(value) >= at_least and all(each.holds(x) for x in value)
        ),
    )


_DETECTRON2_NORM = _one_of(
    "", "BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N"
)
_NORM = _one_of("GN", "BN", "SyncBN", "naiveSyncBN", "")  # of our own parts
_DATASET_NAMES = Rule(
    "a list of names, such as ('my_train',) with its comma",
    lambda value: _is_list(value) and all(_NAME.holds(x) for x in value),
)
_ASCENDING_SIZES = Rule(
    "a list of positive and ascending numbers of pixels",
    lambda value: (
        _is_list(value)
        and all(_is_number(x) and x > 0 for x in value)
        and all(low < high for low, high in pairwise(value))
    ),
)

MODEL_RULES: Mapping[str, Rule] = {
    "MODEL.FCOS.NUM_CLASSES": _integer(at_least=1, or_exactly=-1),
    "MODEL.FCOS.IN_FEATURES": _list_of(_NAME, at_least=1),
    "MODEL.FCOS.TOP_LEVELS": _one_of(0, 1, 2),
    "MODEL.FCOS.TOP_IN_FEATURE": _NAME,
    "MODEL.FCOS.HEAD": _NAME,
    "MODEL.FCOS.NUM_CLS_CONVS": _integer(at_least=0),
    "MODEL.FCOS.NUM_BOX_CONVS": _integer(at_least=0),
    "MODEL.FCOS.NUM_SHARE_CONVS": _integer(at_least=0),
    "MODEL.FCOS.HEAD_CHANNELS": _integer(at_least=0),
    "MODEL.FCOS.NORM": _NORM,
    "MODEL.FCOS.USE_DEFORMABLE": _FLAG,
    "MODEL.FCOS.USE_SCALE": _FLAG,
    "MODEL.FCOS.CENTERNESS_ON": _one_of("box", "cls"),
    "MODEL.FCOS.PRIOR_PROB": _number("between 0 and 1", lambda x: 0 < x < 1),
    # e^12 pixels is the largest distance, with the gradient 0 beyond; and so many strides too many.
    "MODEL.FCOS.PRIOR_LTRB": _number("from 0 to 12", lambda x: 0 <= x <= 12),
    "MODEL.FCOS.BOX_ACTIVATION": _one_of("relu", "exp"),
    # Others would not be exact in float32, and nobody trains with them.
    "MODEL.FCOS.LOCATION_OFFSET": _number(
        "that is 0.5 (centre of the cell) or 0 (its corner)", lambda x: x in (0, 0.5)
    ),
    "MODEL.FCOS.TARGET_ASSIGNER": _NAME,
    "MODEL.FCOS.SIZES_OF_INTEREST": _ASCENDING_SIZES,
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS": _number(
        "of strides, from 0 (the whole box) to 16", lambda x: 0 <= x <= 16
    ),
    "MODEL.FCOS.CENTER_OF_MASK": _FLAG,
    "MODEL.FCOS.FOCAL_LOSS_ALPHA": _SHARE,
    "MODEL.FCOS.FOCAL_LOSS_GAMMA": _NOT_NEGATIVE,
    "MODEL.FCOS.LOC_LOSS_TYPE": _one_of("giou", "diou", "ciou", "iou", "linear_iou"),
    "MODEL.FCOS.BOX_QUALITY": _NAME,  # of losses.quality.QUALITIES
    "MODEL.FCOS.CTR_WEIGHTED_LOC_LOSS": _FLAG,
    "MODEL.FCOS.LOSS_NORMALIZER": _one_of("fg", "moving_fg", "all"),
    "MODEL.FCOS.LOSS_WEIGHT_CLS": _NOT_NEGATIVE,
    "MODEL.FCOS.LOSS_WEIGHT_LOC": _NOT_NEGATIVE,
    "MODEL.FCOS.LOSS_WEIGHT_QUALITY": _NOT_NEGATIVE,
    "MODEL.FCOS.SCORE_THRESH_TEST": _number("of at least 0 and below 1", lambda x: 0 <= x < 1),
    "MODEL.FCOS.THRESH_WITH_CTR": _FLAG,
    "MODEL.FCOS.TOPK_CANDIDATES_TEST": _integer(at_least=1),
    "MODEL.FCOS.NMS_THRESH_TEST": _SHARE,
    "MODEL.FCOS.FOLD_FROZEN_BN": _FLAG,
    "MODEL.FCOS.CHANNELS_LAST": _FLAG,
    "MODEL.FCOS.CHECKPOINT_TOWERS": _FLAG,
    "MODEL.FCOS.COMPILE": _FLAG,
    "MODEL.FCOS.INFERENCE_DTYPE": _one_of("float32", "bfloat16", "float16"),
    "MODEL.TIMM.NAME": _TEXT,
    "MODEL.TIMM.NORM": _one_of("", "FrozenBN", "SyncBN"),
    "MODEL.TIMM.PRETRAINED": _FLAG,
    "MODEL.BIFPN.NUM_REPEATS": _integer(at_least=1),
    "MODEL.BIFPN.OUT_CHANNELS": _integer(at_least=1),
    "MODEL.BIFPN.NORM": _NORM,
    # Keys of detectron2 that the parts of this project read.
    "MODEL.RESNETS.DEPTH": _one_of(18, 34, 50, 101, 152),
    "MODEL.RESNETS.NORM": _DETECTRON2_NORM,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": Rule(
        "a list of four times True or False, for res2 to res5",
        lambda value: (
            _is_list(value) and len(value) == 4 and all(isinstance(x, bool) for x in value)
        ),
    ),
    "MODEL.RESNETS.DEFORM_MODULATED": _FLAG,
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": _integer(at_least=1),
    "MODEL.FPN.NORM": _DETECTRON2_NORM,
    "MODEL.BACKBONE.FREEZE_AT": _integer(at_least=0),
    "MODEL.PIXEL_MEAN": _list_of(Rule("a number", _is_number), at_least=1),
    "MODEL.PIXEL_STD": _list_of(_POSITIVE, at_least=1),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": _integer(at_least=1),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": _integer(at_least=1),
    "MODEL.FPN.IN_FEATURES": _list_of(_NAME),
    "MODEL.FPN.OUT_CHANNELS": _integer(at_least=1),
    "MODEL.FPN.FUSE_TYPE": _one_of("sum", "avg"),
    "TEST.DETECTIONS_PER_IMAGE": _integer(at_least=1),
}


def _is_expectation(value: Any) -> bool:
    return (
        _is_list(value)
        and len(value) == 4
        and all(_NAME.holds(x) for x in value[:2])
        and all(_is_number(x) for x in value[2:])
    )


TRAINING_RULES: Mapping[str, Rule] = {
    "FCOS_TRAIN.DATASETS": _list_of(
        Rule(
            "a text NAME=ANNOTATIONS.json:IMAGES/",
            lambda value: isinstance(value, str) and ":" in value.partition("=")[2],
        )
    ),
    "FCOS_TRAIN.CLASS_NAMES": _list_of(_TEXT),
    "FCOS_TRAIN.KEEP_CROWD_BOXES": _FLAG,
    "FCOS_TRAIN.OPTIMIZER": _one_of("SGD", "AdamW"),
    "FCOS_TRAIN.DCN_OFFSET_LR_FACTOR": _NOT_NEGATIVE,
    "FCOS_TRAIN.AMP_DTYPE": _one_of("auto", "float16", "bfloat16"),
    "FCOS_TRAIN.EMA_DECAY": _number("of at least 0 and below 1", lambda x: 0 <= x < 1),
    "FCOS_TRAIN.VALIDATION_LOSS": _FLAG,
    "FCOS_TRAIN.BEST_METRIC": _TEXT,
    "FCOS_TRAIN.EARLY_STOPPING_PATIENCE": _integer(at_least=0),
    "FCOS_TRAIN.MAX_TO_KEEP": _integer(at_least=0),
    "FCOS_TRAIN.CHECKPOINT_AT_SIGNAL": _FLAG,
    # Keys of detectron2 that people get wrong most often.
    "DATASETS.TRAIN": _DATASET_NAMES,
    "DATASETS.TEST": _DATASET_NAMES,
    "OUTPUT_DIR": _NAME,
    "SOLVER.BASE_LR": _POSITIVE,
    "SOLVER.MAX_ITER": _integer(at_least=1),
    "SOLVER.IMS_PER_BATCH": _integer(at_least=1),
    "SOLVER.STEPS": _list_of(_integer(at_least=1)),
    "SOLVER.LR_SCHEDULER_NAME": _one_of(
        "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"
    ),
    "SOLVER.WARMUP_METHOD": _one_of("linear", "constant"),
    "SOLVER.WARMUP_ITERS": _integer(at_least=0),
    "SOLVER.MOMENTUM": _number("of at least 0 and below 1", lambda x: 0 <= x < 1),
    "SOLVER.WEIGHT_DECAY": _NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY_NORM": _NOT_NEGATIVE,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": _one_of("value", "norm"),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": _POSITIVE,
    "SOLVER.CHECKPOINT_PERIOD": _integer(at_least=1),
    "SOLVER.REFERENCE_WORLD_SIZE": _integer(at_least=0),
    "TEST.EVAL_PERIOD": _integer(at_least=0),
    "TEST.EXPECTED_RESULTS": Rule(
        "a list of [task, metric, value, tolerance], such as [['bbox', 'AP', 38.7, 0.2]]",
        lambda value: _is_list(value) and all(_is_expectation(x) for x in value),
    ),
    "DATALOADER.NUM_WORKERS": _integer(at_least=0),
    "DATALOADER.SAMPLER_TRAIN": _one_of("TrainingSampler", "RepeatFactorTrainingSampler"),
    "INPUT.FORMAT": _one_of("BGR", "RGB", "L"),
    "INPUT.RANDOM_FLIP": _one_of("none", "horizontal", "vertical"),
    "INPUT.CROP.TYPE": _one_of("relative", "relative_range", "absolute", "absolute_range"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _one_of("choice", "range"),
    "INPUT.MIN_SIZE_TRAIN": _list_of(_integer(at_least=0), at_least=1),
    "INPUT.MAX_SIZE_TRAIN": _integer(at_least=1),
    "INPUT.MIN_SIZE_TEST": _integer(at_least=0),
    "INPUT.MAX_SIZE_TEST": _integer(at_least=1),
}

# Numbers of a LazyConfig that training reads itself, where the config has them.
LAZY_RULES: Mapping[str, Rule] = {
    "train.max_iter": _integer(at_least=1),
    "train.eval_period": _integer(at_least=0),
    "train.log_period": _integer(at_least=1),
    "train.amp.enabled": _FLAG,
    "train.checkpointer.period": _integer(at_least=1),
    "train.checkpointer.max_to_keep": _integer(at_least=1),
    "train.ema_decay": _number("of at least 0 and below 1", lambda x: 0 <= x < 1),
    "train.validation_loss": _FLAG,
    "train.best_metric": _TEXT,
    "train.early_stopping_patience": _integer(at_least=0),
    "train.checkpoint_at_signal": _FLAG,
    "dataloader.train.total_batch_size": _integer(at_least=1),
    "dataloader.train.num_workers": _integer(at_least=0),
    "dataloader.test.num_workers": _integer(at_least=0),
    "optimizer.lr": _POSITIVE,
    "optimizer.momentum": _NOT_NEGATIVE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
}

CONFIG_RULES: Mapping[str, Rule] = {**MODEL_RULES, **TRAINING_RULES}


def check_value(key: str, value: Any, rules: Mapping[str, Rule] = CONFIG_RULES) -> None:
    """
    Hold one value against the rule of its key.

    Args:
        key (str): full name, such as "MODEL.FCOS.NORM".
        value: what a config, or the argument of a constructor that the key stands for, has.
        rules: where the key has one.

    Raises:
        InputError: the rule is broken; the message has key, value and rule.
    """
    check_values({key: value}, rules)


def check_values(values: Mapping[str, Any], rules: Mapping[str, Rule] = CONFIG_RULES) -> None:
    """
    Hold several values against the rules of their keys, as constructors do.

    Args:
        values (dict): key -> value, see :func:`check_value`.
        rules: where the keys have them.

    Raises:
        InputError: rules are broken; the message has a line for each.
    """
    broken = [key for key, value in values.items() if not rules[key].holds(value)]
    if broken:
        raise InputError(
            "\n".join(f"{key} = {values[key]!r} must be {rules[key].text}." for key in broken)
        )


def check_registered(key: str, name: str, registry: Any) -> None:
    """
    Raises:
        InputError: the registry has no such name; the message has the nearest that it has.
    """
    if name not in registry:
        known = [known for known, _ in registry]
        raise InputError(
            f"{key} = {name!r} is not registered in {registry._name}. {nearest(name, known)} "
            "If it comes from a package of its own, import that first."
        )


def check_config(cfg: Any) -> None:
    """
    Hold all that building a model reads against its rules, and names against the registries.

    Args:
        cfg (CfgNode): with the keys of ``add_fcos_config``.

    Raises:
        InputError: keys break their rules, a line for each; or what else is wrong.
    """
    _check_keys(cfg, MODEL_RULES)
    check_registered("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY)
    check_registered("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY)


def check_training_config(cfg: Any) -> None:
    """
    Hold all else that ``train_net.py`` reads against its rules.

    Args:
        cfg (CfgNode): with the keys of ``add_train_config`` too.

    Raises:
        InputError: keys break their rules, a line for each; or what else is wrong.
    """
    _check_keys(cfg, TRAINING_RULES)
    for key in ("KEYPOINT_ON", "LOAD_PROPOSALS"):
        if cfg.MODEL[key]:
            raise InputError(f"MODEL.{key} = True: FCOS detects boxes, and has no use for it.")
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(sizes) != 2:
        raise InputError(
            f"INPUT.MIN_SIZE_TRAIN = {tuple(sizes)} must be two sizes, the least and the most, as "
            "INPUT.MIN_SIZE_TRAIN_SAMPLING is 'range'."
        )
    channels = {"L": 1}.get(cfg.INPUT.FORMAT, 3)
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(cfg.MODEL[key]) != channels:
            raise InputError(
                f"MODEL.{key} = {list(cfg.MODEL[key])} has {len(cfg.MODEL[key])} values, but "
                f"images of INPUT.FORMAT = {cfg.INPUT.FORMAT!r} have {channels} channels."
            )


def _check_keys(cfg: Any, rules: Mapping[str, Rule]) -> None:
    check_values({key: reduce(getitem, key.split("."), cfg) for key in rules})
