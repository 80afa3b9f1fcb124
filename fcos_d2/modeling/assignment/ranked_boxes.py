"""
The gt boxes of a batch, sorted by area: the order in which they compete for locations.

N = images, M = gt boxes of the batch.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..levels import constant_on
from .mask_centroids import centers_of_masks

__all__ = ["RankedBoxes", "rank_boxes"]


class RankedBoxes(NamedTuple):
    """
    The M boxes of a batch in order of rank: smallest area first, equal areas by index.

    Attributes:
        xyxy (Tensor): (4, M) float32, sides in pixels.
        centers (Tensor): (2, M) float32 xy, centers of the squares of center sampling.
        image_idxs (Tensor): (M,) int64, image of each box.
        gt_idxs (Tensor): (M,) int64, index of each box in the batch before sorting.
        gt_classes (Tensor): (M,) int64, class of each box before sorting, indexed by ``gt_idxs``.
    """

    xyxy: Tensor
    centers: Tensor
    image_idxs: Tensor
    gt_idxs: Tensor
    gt_classes: Tensor

    @property
    def longer_sides(self) -> Tensor:
        """The (M,) longer sides of the boxes, in pixels."""
        return (self.xyxy[2:] - self.xyxy[:2]).amax(dim=0)  # (M,)

    def __len__(self) -> int:
        return len(self.gt_idxs)


def rank_boxes(gt_instances: Sequence[Instances], center_of_mask: bool = False) -> RankedBoxes:
    """
    Sort the boxes of a batch by area.

    Args:
        gt_instances (list[Instances]): Annotations of each image, see ``registry.TargetAssigner``.
        center_of_mask (bool): Take the centers from ``mask_centroids.centers_of_masks`` instead of
            using the centers of the boxes.
    """
    boxes = Boxes.cat([instances.gt_boxes for instances in gt_instances])  # M boxes
    gt_idxs = boxes.area().argsort(stable=True)  # (M,)
    classes = torch.cat([instances.gt_classes for instances in gt_instances])  # (M,)
    image_ends = constant_on(list(accumulate(map(len, gt_instances))), gt_idxs.device)  # (N,)
    # One lookup finds the images of all boxes, without a loop over images.
    image_idxs = torch.bucketize(gt_idxs, image_ends, right=True)  # (M,)
    xyxy = boxes.tensor.float().T.index_select(1, gt_idxs)  # (4, M)
    centers = (xyxy[:2] + xyxy[2:]) / 2  # (2, M)
    if center_of_mask:
        mask_centers = torch.cat([centers_of_masks(x) for x in gt_instances])  # (M, 2)
        centers = mask_centers.T[:, gt_idxs]  # (2, M)
    return RankedBoxes(xyxy, centers, image_idxs, gt_idxs, classes)
