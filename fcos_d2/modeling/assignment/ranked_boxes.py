"""The boxes of a batch in the order in which they compete for locations."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..levels import constant_on
from .mask_centers import centers_of_masks

__all__ = ["RankedBoxes", "rank_boxes"]


class RankedBoxes(NamedTuple):
    """The M boxes of a batch in order of rank: smallest area first, equal areas by index."""

    xyxy: Tensor  # (4, M) float32
    centers: Tensor  # (2, M) float32 xy, the middle of the square of center sampling
    image_idxs: Tensor  # (M,)
    gt_idxs: Tensor  # (M,) index in the batch, in the order it was given
    gt_classes: Tensor  # (M,) in the order that was given: classes of gt_idxs

    @property
    def longer_sides(self) -> Tensor:
        """(M,) in pixels."""
        return (self.xyxy[2:] - self.xyxy[:2]).amax(dim=0)

    def __len__(self) -> int:
        return len(self.gt_idxs)


def rank_boxes(gt_instances: Sequence[Instances], center_of_mask: bool = False) -> RankedBoxes:
    """
    Sort the boxes of a batch by area.

    Args:
        gt_instances (list[Instances]): of each image, see ``registry.TargetAssigner``.
        center_of_mask (bool): the centers are those of ``mask_centers.centers_of_masks``,
            not those of the boxes.
    """
    boxes = Boxes.cat([instances.gt_boxes for instances in gt_instances])
    gt_idxs = boxes.area().argsort(stable=True)  # (M,)
    classes = torch.cat([instances.gt_classes for instances in gt_instances])  # (M,)
    image_ends = constant_on(list(accumulate(map(len, gt_instances))), gt_idxs.device)  # (N,)
    # One lookup for the whole batch, without work for each image.
    image_idxs = torch.bucketize(gt_idxs, image_ends, right=True)  # (M,)
    xyxy = boxes.tensor.float().T.index_select(1, gt_idxs)  # (4, M)
    centers = (xyxy[:2] + xyxy[2:]) / 2  # (2, M)
    if center_of_mask:
        centers = torch.cat([centers_of_masks(x) for x in gt_instances]).T[:, gt_idxs]
    return RankedBoxes(xyxy, centers, image_idxs, gt_idxs, classes)
