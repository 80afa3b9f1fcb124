"""
Checks of a config before anything is built or an annotation file is opened.

The rules for this project's keys are next to the constructors that read them. This file has rules
for detectron2's keys, but only for mistakes that people make and that detectron2 does not report.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import build_augmentation
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.solver import build_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from PIL import Image

from .arguments import (
    FLAG,
    NAME,
    NOT_NEGATIVE,
    POSITIVE,
    Rule,
    find_faults,
    get,
    integer,
    is_list,
    is_number,
    list_of,
    one_of,
    raise_faults,
)
from .config import new_cfg
from .errors import InputError, count_words
from .modeling.config_checks import find_config_faults

__all__ = [
    "INPUT_RULES",
    "RUN_RULES",
    "TRAINING_RULES",
    "build_for_checks",
    "build_model_for_checks",
    "check_config",
    "disabled_logging",
    "find_build_faults",
    "find_training_faults",
]

_Built = TypeVar("_Built")

_NAMES = Rule(
    "a list of names, such as ('my_train',) with its comma",
    lambda value: is_list(value) and all(NAME.holds(x) for x in value),
)


def _is_expected_result(value: Any) -> bool:
    """Return whether a value is an entry of TEST.EXPECTED_RESULTS."""
    return (
        is_list(value)
        and len(value) == 4
        and all(NAME.holds(x) for x in value[:2])
        and all(is_number(x) for x in value[2:])
    )


# The keys that predictions read too.
INPUT_RULES: Mapping[str, Rule] = {
    "INPUT.MIN_SIZE_TEST": integer(at_least=0),
    "INPUT.MAX_SIZE_TEST": integer(at_least=1),
    "TEST.AUG.ENABLED": FLAG,
    "TEST.AUG.MIN_SIZES": list_of(integer(at_least=0), at_least=1),
    "TEST.AUG.MAX_SIZE": integer(at_least=1),
    "TEST.AUG.FLIP": FLAG,
}
RUN_RULES: Mapping[str, Rule] = {
    "DATASETS.TRAIN": _NAMES,
    "DATASETS.TEST": _NAMES,
    "OUTPUT_DIR": NAME,
    "DATALOADER.NUM_WORKERS": integer(at_least=0),
    "TEST.KEYPOINT_OKS_SIGMAS": list_of(POSITIVE),
    "TEST.EXPECTED_RESULTS": Rule(
        "a list of [task, metric, value, tolerance], such as [['bbox', 'AP', 38.7, 0.2]]",
        lambda value: is_list(value) and all(_is_expected_result(x) for x in value),
    ),
}
TRAINING_RULES: Mapping[str, Rule] = {
    "SOLVER.BASE_LR": NOT_NEGATIVE,
    "SOLVER.MAX_ITER": integer(at_least=1),
    "SOLVER.IMS_PER_BATCH": integer(at_least=1),
    "SOLVER.STEPS": list_of(integer(at_least=1)),
    "SOLVER.CHECKPOINT_PERIOD": integer(at_least=1),
    "DATALOADER.SAMPLER_TRAIN": one_of(
        "TrainingSampler",
        "RepeatFactorTrainingSampler",
        "RandomSubsetTrainingSampler",
        "WeightedTrainingSampler",
        "WeightedCategoryTrainingSampler",
    ),
    "INPUT.RANDOM_FLIP": one_of("none", "horizontal", "vertical"),
    "INPUT.CROP.TYPE": one_of("relative", "relative_range", "absolute", "absolute_range"),
    "INPUT.MIN_SIZE_TRAIN": list_of(integer(at_least=0), at_least=1),
    "INPUT.MAX_SIZE_TRAIN": integer(at_least=1),
}


def check_config(
    cfg: CfgNode, more: Sequence[InputError] = (), *, build_model: bool = False
) -> None:
    """
    Check the keys for building a model and for reading its images.

    Args:
        cfg (CfgNode): A config with the keys of ``add_fcos_config``.
        more (Sequence[InputError]): Errors that the caller has found, to report together.
        build_model (bool): Also build the model, to find parts that do not fit together; see
            ``find_build_faults``. This is useful if there is much work before the model is built.

    Raises:
        InputError: If there are errors in the config. The message lists all of them.
    """
    faults = find_config_faults(cfg)
    if build_model and not faults:
        faults = find_build_faults(lambda: build_model_for_checks(cfg))
    sizes = find_faults(INPUT_RULES, lambda key: get(cfg, key))
    raise_faults([faults, _find_pixel_faults(cfg), sizes, more])


def find_training_faults(cfg: CfgNode, eval_only: bool = False) -> list[InputError]:
    """
    Find errors in detectron2's keys that a run reads and a model does not.

    Args:
        cfg (CfgNode): The complete config.
        eval_only (bool): Don't check the keys that only training reads.
    """
    rules = RUN_RULES if eval_only else {**RUN_RULES, **TRAINING_RULES}
    faults = find_faults(rules, lambda key: get(cfg, key))
    if eval_only:
        return faults
    for key in ("MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS"):
        if get(cfg, key) and cfg.MODEL.META_ARCHITECTURE in ("FCOS", "ProposalNetwork"):
            text = (
                f"{key} = True cannot be used, because {cfg.MODEL.META_ARCHITECTURE} detects only "
                "boxes. Set it to False."
            )
            faults.append(InputError(text, key=key, value=True))
    cfg = _with_defaults(cfg, [str(fault.key) for fault in faults])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    for section, build, arguments in (
        ("SOLVER", build_lr_scheduler, (cfg, optimizer)),
        ("SOLVER.CLIP_GRADIENTS", maybe_add_gradient_clipping, (cfg, torch.optim.SGD)),
        ("INPUT", build_augmentation, (cfg, True)),
    ):
        faults += _find_fault_by_trying(cfg, section, build, arguments)
    return faults


def _with_defaults(cfg: CfgNode, keys: Sequence[str]) -> CfgNode:
    """Return a copy in which some keys have their defaults, so that the others can be checked."""
    cfg, defaults = cfg.clone(), new_cfg()
    cfg.defrost()
    for key in keys:
        section, _, name = key.rpartition(".")
        (get(cfg, section) if section else cfg)[name] = get(defaults, key)
    return cfg


def _find_fault_by_trying(
    cfg: CfgNode, section: str, build: Callable[..., object], arguments: tuple[Any, ...]
) -> list[InputError]:
    """Find the error that one of detectron2's builders raises; the built objects are small."""
    try:
        with disabled_logging():
            build(*arguments)
    except (AssertionError, ValueError, TypeError, ZeroDivisionError) as error:
        # detectron2's text has the value but not the key.
        texts = {f"{section}.{x}": v for x, v in get(cfg, section).items() if isinstance(v, str)}
        keys = [key for key, value in texts.items() if value and value in str(error)]
        key, value = (keys[0], texts[keys[0]]) if len(keys) == 1 else (section, None)
        where = f"{key} = {value!r}" if value else f"{section}.*"
        text = f"{where}: detectron2 reports: {error}"
        return [InputError(text, key=key, value=value)]
    return []


def find_build_faults(build: Callable[[], object]) -> list[InputError]:
    """
    Find parts of a model that do not fit together, by building it without memory for its weights.

    Args:
        build (Callable): Builds the model.
    """
    try:
        build_for_checks(build)
    except InputError as error:
        return list(error.faults)
    return []


def build_for_checks(build: Callable[[], _Built]) -> _Built | None:
    """
    Build a model without memory for its weights.

    Args:
        build (Callable): Builds the model.

    Returns:
        The model. None if it reads weights while it is built, which have no values.

    Raises:
        InputError: If the model cannot be built.
    """
    try:
        with torch.device("meta"), disabled_logging():
            return build()
    except InputError:
        raise
    except (RuntimeError, NotImplementedError, TypeError):
        return None


def build_model_for_checks(cfg: CfgNode) -> torch.nn.Module:
    """Build the model without pretrained weights."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TIMM.PRETRAINED = False  # no download
    for section in (cfg.MODEL.FCOS, cfg.MODEL.ROI_HEADS):
        section.NUM_CLASSES = max(section.NUM_CLASSES, 1)
    keypoint_head = cfg.MODEL.ROI_KEYPOINT_HEAD
    keypoint_head.NUM_KEYPOINTS = max(keypoint_head.NUM_KEYPOINTS, 1)
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)


def _find_pixel_faults(cfg: CfgNode) -> list[InputError]:
    """Check INPUT.FORMAT, and that the pixel statistics have as many values as it has channels."""
    name = cfg.INPUT.FORMAT
    try:
        mode = "RGB" if name in ("BGR", "YUV-BT.601") else name  # as detectron2 converts images
        channels = len(Image.new("RGB", (1, 1)).convert(mode).getbands())
    except (ValueError, TypeError):
        text = f"INPUT.FORMAT = {name!r} must be BGR, RGB, L, YUV-BT.601 or another mode of Pillow."
        return [InputError(text, key="INPUT.FORMAT", value=name)]
    return [
        InputError(
            f"{key} = {list(values)} has {count_words(len(values), '{value|values}')}, but images "
            f"of INPUT.FORMAT = {name!r} have {channels} channels.",
            key=key,
            value=values,
        )
        for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")
        if is_list(values := get(cfg, key)) and len(values) != channels
    ]


@contextmanager
def disabled_logging() -> Iterator[None]:
    """Disable logging in a block, because what is built there is built and logged again later."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
