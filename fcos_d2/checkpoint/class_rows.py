"""Of a class layer with rows that no class has, those that stand for a class."""

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ..errors import InputError
from .formats import Settings, Weights

__all__ = ["COCO_SETTINGS", "NUM_COCO_IDS", "drop_background_row", "keep_coco_rows"]

NUM_COCO_IDS = 91  # ids go from 1 to 90; torchvision's row 0 stands for the background
_LAYER = ("head.cls_logits.weight", "head.cls_logits.bias")
_THINGS = [category for category in COCO_CATEGORIES if category["isthing"]]

COCO_SETTINGS: Settings = {
    "MODEL.FCOS.NUM_CLASSES": len(_THINGS),
    "FCOS_TRAIN.CLASS_NAMES": [category["name"] for category in _THINGS],
    "DATASETS.TRAIN": ("coco_2017_train",),
    "DATASETS.TEST": ("coco_2017_val",),
}


def keep_coco_rows(weights: Weights) -> Weights:
    """
    The class layer for detectron2's COCO datasets: 80 classes in the order of their ids.

    Raises:
        InputError: the class layer has not 91 rows.
    """
    num_rows = _num_rows(weights)
    if num_rows != NUM_COCO_IDS:
        raise InputError(
            f"--coco80 takes 80 rows of the {NUM_COCO_IDS} of torchvision's class layers for COCO; "
            f"this one has {num_rows}."
        )
    ids = [category["id"] for category in _THINGS]
    return {**weights, **{name: weights[name][ids] for name in _LAYER}}


def drop_background_row(weights: Weights) -> Weights:
    """
    The class layer without its first row: torchvision counts classes from 1, the background is 0.

    Raises:
        InputError: no other row would be left.
    """
    num_rows = _num_rows(weights)
    if num_rows < 2:
        raise InputError(f"--drop-background-row leaves no class: there are {num_rows} rows.")
    return {**weights, **{name: weights[name][1:] for name in _LAYER}}


def _num_rows(weights: Weights) -> int:
    """Of both parameters, or 0: then they are no class layer, which other checks say."""
    num_rows = {len(weights[name]) if name in weights else 0 for name in _LAYER}
    return num_rows.pop() if len(num_rows) == 1 else 0
