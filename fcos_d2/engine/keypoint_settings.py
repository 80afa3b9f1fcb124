"""Settings for keypoints that follow from the datasets: their number, and horizontal flips."""

import logging

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..data.coco import registered_datasets
from ..data.keypoints import find_single_sides, keypoint_names_of, num_keypoints_of
from ..errors import InputError, listed

__all__ = ["disable_unpaired_flips", "resolve_num_keypoints"]

logger = logging.getLogger(__name__)


def disable_unpaired_flips(cfg: CfgNode) -> None:
    """
    Set INPUT.RANDOM_FLIP to "none" if it is unknown which keypoints a horizontal flip swaps.

    That is so if the names of the keypoints of a dataset that this package has registered have no
    left and right. Other datasets say it in their metadata, which may be that no keypoints are
    swapped.

    Args:
        cfg (CfgNode): A config whose datasets are registered.
    """
    if not (cfg.MODEL.KEYPOINT_ON and cfg.DATASETS.TRAIN and cfg.INPUT.RANDOM_FLIP == "horizontal"):
        return
    name = cfg.DATASETS.TRAIN[0]
    names = keypoint_names_of(name)
    if name not in {x.name for x in registered_datasets()}:
        return
    if not MetadataCatalog.get(name).keypoint_flip_map:
        cfg.INPUT.RANDOM_FLIP = "none"
        logger.warning(
            "INPUT.RANDOM_FLIP becomes 'none': the names of the keypoints of the training set %r "
            "have no left and right (%s), so it is unknown which ones a flip swaps. If there are "
            "pairs, name them like left_eye and right_eye.",
            name,
            listed(names),
        )
    elif single := find_single_sides(names):
        logger.warning(
            "Horizontal flips do not swap %s of the training set %r: no other keypoint has the "
            "same name with the other side. If that is wrong, correct the names, or set "
            "INPUT.RANDOM_FLIP to none.",
            listed(single),
            name,
        )


def resolve_num_keypoints(cfg: CfgNode, eval_only: bool = False) -> int:
    """
    Return the number of keypoints of an object.

    If ``MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS`` is -1, this is the number of DATASETS.TRAIN[0].

    Args:
        cfg (CfgNode): A config whose datasets are registered.
        eval_only (bool): Use DATASETS.TEST[0]. In an evaluation, the training set may not be
            registered.

    Raises:
        InputError: If the dataset has another number of keypoints, or none.
    """
    key, value = "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    name = cfg.DATASETS.TEST[0] if eval_only else cfg.DATASETS.TRAIN[0]
    number = num_keypoints_of(name)
    if value in (-1, number) and number:
        return number
    if eval_only and value != -1 and not number:  # no scores are computed, which is logged
        return value
    has = f"has {number}: set it to -1 or {number}" if number else "has no keypoint_names"
    text = f"{key} = {value}, but the metadata of the dataset {name!r} {has}."
    raise InputError(text, key=key, value=value)
