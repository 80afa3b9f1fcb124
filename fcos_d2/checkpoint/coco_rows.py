"""Of a class layer with a row for each COCO category id, the rows of the categories there are."""

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ..errors import InputError
from .formats import Settings, Weights

__all__ = ["COCO_SETTINGS", "NUM_COCO_IDS", "keep_coco_rows"]

NUM_COCO_IDS = 91  # ids go from 1 to 90; torchvision's row 0 stands for the background
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
    layer = ("head.cls_logits.weight", "head.cls_logits.bias")
    num_rows = [len(weights[name]) for name in layer]
    if num_rows != [NUM_COCO_IDS] * 2:
        raise InputError(
            f"--coco80 takes 80 rows of the {NUM_COCO_IDS} of torchvision's class layers for COCO; "
            f"this one has {num_rows[0]}."
        )
    ids = [category["id"] for category in _THINGS]
    return {**weights, **{name: weights[name][ids] for name in layer}}
