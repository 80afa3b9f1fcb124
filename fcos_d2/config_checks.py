"""
All that is wrong with a config, before anything is built or an annotation file is opened.

Keys of this project have their rules beside the constructors that take them. Those of detectron2
have one here only where people go wrong and detectron2 does not say so.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import build_augmentation
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.solver import build_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from PIL import Image

from .arguments import (
    NAME,
    NOT_NEGATIVE,
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
from .errors import InputError
from .modeling.config_faults import find_config_faults

__all__ = [
    "INPUT_RULES",
    "RUN_RULES",
    "TRAINING_RULES",
    "check_config",
    "find_build_faults",
    "find_training_faults",
]

_NAMES = Rule(
    "a list of names, such as ('my_train',) with its comma",
    lambda value: is_list(value) and all(NAME.holds(x) for x in value),
)


def _is_expectation(value: Any) -> bool:
    return (
        is_list(value)
        and len(value) == 4
        and all(NAME.holds(x) for x in value[:2])
        and all(is_number(x) for x in value[2:])
    )


# Of what a prediction reads too.
INPUT_RULES: Mapping[str, Rule] = {
    "INPUT.MIN_SIZE_TEST": integer(at_least=0),
    "INPUT.MAX_SIZE_TEST": integer(at_least=1),
}
RUN_RULES: Mapping[str, Rule] = {
    "DATASETS.TRAIN": _NAMES,
    "DATASETS.TEST": _NAMES,
    "OUTPUT_DIR": NAME,
    "DATALOADER.NUM_WORKERS": integer(at_least=0),
    "TEST.EXPECTED_RESULTS": Rule(
        "a list of [task, metric, value, tolerance], such as [['bbox', 'AP', 38.7, 0.2]]",
        lambda value: is_list(value) and all(_is_expectation(x) for x in value),
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
    Check what building a model and reading its images need.

    Args:
        cfg (CfgNode): with the keys of ``add_fcos_config``.
        more (list[InputError]): faults that were found otherwise, to report with these.
        build_model (bool): also find what does not fit together, see ``find_build_faults``; for
            those who have long work to do before they build it.

    Raises:
        InputError: all faults.
    """
    faults = find_config_faults(cfg)
    if build_model and not faults:
        faults = find_build_faults(lambda: _build_for_checks(cfg))
    sizes = find_faults(INPUT_RULES, lambda key: get(cfg, key))
    raise_faults([faults, _find_pixel_faults(cfg), sizes, more])


def find_training_faults(cfg: CfgNode, eval_only: bool = False) -> list[InputError]:
    """
    Find what is wrong with detectron2's keys that runs read, and no model.

    Args:
        cfg (CfgNode): complete.
        eval_only (bool): what only a training reads may have any value.
    """
    rules = RUN_RULES if eval_only else {**RUN_RULES, **TRAINING_RULES}
    faults = find_faults(rules, lambda key: get(cfg, key))
    if eval_only:
        return faults
    for key in ("MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS"):
        if get(cfg, key) and cfg.MODEL.META_ARCHITECTURE == "FCOS":
            text = f"{key} = True: FCOS detects boxes, and has no use for it."
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
    """A copy in which some keys have their defaults, so that others can be looked at."""
    cfg, defaults = cfg.clone(), new_cfg()
    cfg.defrost()
    for key in keys:
        section, _, name = key.rpartition(".")
        (get(cfg, section) if section else cfg)[name] = get(defaults, key)
    return cfg


def _find_fault_by_trying(
    cfg: CfgNode, section: str, build: Callable[..., Any], arguments: tuple[Any, ...]
) -> list[InputError]:
    """One that a builder of detectron2 finds by itself, which is called with nothing of size."""
    try:
        with _no_logging():
            build(*arguments)
    except (AssertionError, ValueError, TypeError, ZeroDivisionError) as error:
        # The text has the value, and not the key.
        texts = {f"{section}.{x}": v for x, v in get(cfg, section).items() if isinstance(v, str)}
        keys = [key for key, value in texts.items() if value and value in str(error)]
        key, value = (keys[0], texts[keys[0]]) if len(keys) == 1 else (section, None)
        where = f"{key} = {value!r}" if value else f"{section}.*"
        return [InputError(f"{where}: detectron2 says: {error}", key=key, value=value)]
    return []


def find_build_faults(build: Callable[[], Any]) -> list[InputError]:
    """
    Find what does not fit together in a model, by building it without any memory for its weights.

    Args:
        build (Callable): makes the model.
    """
    try:
        with torch.device("meta"), _no_logging():
            build()
    except InputError as error:
        return list(error.faults)
    except (RuntimeError, NotImplementedError, TypeError):
        pass  # some models read values of their weights while they are built, which these have not
    return []


def _build_for_checks(cfg: CfgNode) -> None:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TIMM.PRETRAINED = False  # no download
    if cfg.MODEL.FCOS.NUM_CLASSES == -1:
        cfg.MODEL.FCOS.NUM_CLASSES = 1
    META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)


def _find_pixel_faults(cfg: CfgNode) -> list[InputError]:
    """INPUT.FORMAT, and the number of channels that it gives images."""
    name = cfg.INPUT.FORMAT
    try:
        mode = "RGB" if name in ("BGR", "YUV-BT.601") else name  # as detectron2 converts images
        channels = len(Image.new("RGB", (1, 1)).convert(mode).getbands())
    except (ValueError, TypeError):
        text = f"INPUT.FORMAT = {name!r} must be BGR, RGB, L, YUV-BT.601 or another mode of Pillow."
        return [InputError(text, key="INPUT.FORMAT", value=name)]
    return [
        InputError(
            f"{key} = {list(values)} has {len(values)} values, but images of INPUT.FORMAT = "
            f"{name!r} have {channels} channels.",
            key=key,
            value=values,
        )
        for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")
        if is_list(values := get(cfg, key)) and len(values) != channels
    ]


@contextmanager
def _no_logging() -> Iterator[None]:
    """What is built only to be checked is built again, and says it then."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
