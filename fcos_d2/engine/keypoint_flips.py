"""Horizontal flips of training images, which swap the keypoints of the left and the right side."""

import logging

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..data.coco import registered_datasets
from ..data.keypoints import find_single_sides, keypoint_names_of
from ..errors import listed

__all__ = ["disable_unpaired_flips"]

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
