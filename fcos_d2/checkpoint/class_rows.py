"""Removal of the rows of a class layer that do not belong to a class."""

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ..errors import InputError
from .formats import Settings, Weights

__all__ = ["COCO_SETTINGS", "NUM_COCO_IDS", "drop_background_row", "keep_coco_rows"]

NUM_COCO_IDS = 91  # row 0 is the background, rows 1 to 90 are category ids
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
    Keep the rows of the 80 classes of detectron2's COCO datasets, in the order of their ids.

    Args:
        weights (dict[str, Tensor]): Weights under the names of this project.

    Returns:
        dict[str, Tensor]: The same weights with a class layer of 80 rows.

    Raises:
        InputError: If the class layer does not have torchvision's 91 rows.
    """
    num_rows = _num_rows(weights)
    if num_rows != NUM_COCO_IDS:
        raise InputError(
            f"--coco80 needs a class layer with torchvision's {NUM_COCO_IDS} rows for COCO; this "
            f"one has {num_rows}."
        )
    ids = [category["id"] for category in _THINGS]
    return {**weights, **{name: weights[name][ids] for name in _LAYER}}


def drop_background_row(weights: Weights) -> Weights:
    """
    Remove the first row of the class layer.

    torchvision numbers classes from 1 and has a row 0 for the background.

    Args:
        weights (dict[str, Tensor]): Weights under the names of this project.

    Returns:
        dict[str, Tensor]: The same weights with one row less in the class layer.

    Raises:
        InputError: If no row would be left.
    """
    num_rows = _num_rows(weights)
    if num_rows < 2:
        raise InputError(
            f"--drop-background-row leaves no class: the class layer has {num_rows} rows."
        )
    return {**weights, **{name: weights[name][1:] for name in _LAYER}}


def _num_rows(weights: Weights) -> int:
    """
    Return the number of rows of the class layer.

    It is 0 if weight and bias differ or are missing. Other checks report that.
    """
    num_rows = {len(weights[name]) if name in weights else 0 for name in _LAYER}
    return num_rows.pop() if len(num_rows) == 1 else 0
