"""Which of the datasets on the command line a run trains on, and which one it evaluates on."""

import logging
from collections.abc import Sequence

from detectron2.config import CfgNode

from ..config_loading import parse_overrides
from ..errors import InputError, listed

__all__ = ["assign_datasets", "find_empty_datasets"]

logger = logging.getLogger(__name__)

_TRAIN, _TEST = "DATASETS.TRAIN", "DATASETS.TEST"


def assign_datasets(
    cfg: CfgNode, names: Sequence[str], opts: Sequence[str], *, eval_only: bool
) -> None:
    """
    Use the datasets of the flags --dataset where the config names none.

    The first one is the training set, and the second one the test set. In an evaluation, the only
    one is the test set. Nothing is changed if there are more of them, because it is unknown which
    ones are meant, or if an override sets the key, even to ().

    Args:
        cfg (CfgNode): The config, which is changed in place.
        names (list[str]): The names in the flags --dataset.
        opts (list[str]): The overrides of the config.
        eval_only (bool): Whether the run only evaluates.
    """
    named = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    free = [name for name in dict.fromkeys(names) if name not in named]
    overridden = _overridden_keys(opts)
    empty = [key for key in _empty_keys(cfg) if not (eval_only and key == _TRAIN)]
    empty = [key for key in empty if key not in overridden]
    if not free or len(free) > len(empty):
        return
    chosen = dict(zip(empty, free, strict=False))
    for key, name in chosen.items():
        cfg.DATASETS[key.rpartition(".")[2]] = (name,)
    logger.info(
        "The config names no dataset, so those of --dataset are used: %s.",
        ", ".join(f"{key} = ('{name}',)" for key, name in chosen.items()),
    )


def _overridden_keys(opts: Sequence[str]) -> set[str]:
    """Return the keys that overrides set; none if the overrides have errors, reported elsewhere."""
    try:
        return {key for key, _ in parse_overrides(opts)}
    except InputError:  # ``load_config`` has collected it
        return set()


def _empty_keys(cfg: CfgNode) -> list[str]:
    """Return the keys of the empty lists of datasets."""
    lists = {_TRAIN: cfg.DATASETS.TRAIN, _TEST: cfg.DATASETS.TEST}
    return [key for key, names in lists.items() if not names]


def find_empty_datasets(cfg: CfgNode, names: Sequence[str], *, eval_only: bool) -> list[InputError]:
    """
    Find an error if a training has no training set, or an evaluation no test set.

    Args:
        cfg (CfgNode): The config, after ``assign_datasets``.
        names (list[str]): The names in the flags --dataset.
        eval_only (bool): Whether the run only evaluates.
    """
    key = _TEST if eval_only else _TRAIN
    if key not in _empty_keys(cfg):
        return []
    text = f"{key} is empty. "
    if names:
        text += (
            f"Name one of the datasets of --dataset ({listed(names)}): {key} \"('{names[0]}',)\"."
        )
    else:
        example = f"my_{key.rpartition('.')[2].lower()}"
        text += (
            f"Add your own dataset, --dataset {example}=ANNOTATIONS.json:IMAGES/, to the command, "
            f"or name a dataset that detectron2 knows: {key} \"('coco_2017_val',)\"."
        )
    return [InputError(text, key=key)]
