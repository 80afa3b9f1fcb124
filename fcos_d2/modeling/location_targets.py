"""
What assigners return, and the order in which boxes compete.

N = images, M = boxes of the batch, R = locations of an image over all levels,
C = candidate (location, box) pairs.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from .levels import constant_on
from .mask_centroids import centers_of_masks

__all__ = ["LocationTargets", "RankedBoxes", "concatenate_targets", "rank_boxes"]


class LocationTargets(NamedTuple):
    """
    What the locations of a batch should predict: C (location, box) pairs, in no order.

    A pair counts only where ``is_positive``: there the location belongs to the box, and no location
    has two. The others are there so that shapes need not depend on the data.

    Attributes:
        slots (Tensor): (C,) int64, location in the batch: image x R + location in the image.
        level_idxs (Tensor): (C,) int64, level of the location, 0 = the finest.
        box_idxs (Tensor): (C,) int64, box among the boxes of the whole batch.
        classes (Tensor): (C,) int64, class of the box.
        ltrb (Tensor): (C, 4) float32, distances from the location to the box's sides, in pixels.
        is_positive (Tensor): (C,) bool.
    """

    slots: Tensor
    level_idxs: Tensor
    box_idxs: Tensor
    classes: Tensor
    ltrb: Tensor
    is_positive: Tensor

    def matched_idxs(self, num_images: int, num_locations: int) -> Tensor:
        """The dense view: (N, R) int64 box index (within the batch), -1 = background."""
        return self._at_locations(self.box_idxs, num_images, num_locations)

    def labels(self, num_images: int, num_locations: int) -> Tensor:
        """The dense view: (N, R) int64 class, -1 = background."""
        return self._at_locations(self.classes, num_images, num_locations)

    def _at_locations(self, values: Tensor, num_images: int, num_locations: int) -> Tensor:
        dense = values.new_full((num_images * num_locations,), -1)
        # No location has two positive pairs, and -1 overwrites none.
        dense.scatter_reduce_(0, self.slots, values.where(self.is_positive, -1), "amax")
        return dense.view(num_images, num_locations)


def concatenate_targets(parts: Sequence[LocationTargets]) -> LocationTargets:
    """The pairs of several, one after the other."""
    return LocationTargets._make(map(torch.cat, zip(*parts, strict=True)))


class RankedBoxes(NamedTuple):
    """The M boxes of a batch in order of rank: least area first, equal areas by index."""

    xyxy: Tensor  # (4, M) float32
    centers: Tensor  # (2, M) float32 xy, which centre sampling looks about
    image_idxs: Tensor  # (M,)
    box_idxs: Tensor  # (M,) index in the batch, in the order it was given
    classes: Tensor  # (M,)

    @property
    def longer_sides(self) -> Tensor:
        """(M,) in pixels."""
        return (self.xyxy[2:] - self.xyxy[:2]).amax(dim=0)


def rank_boxes(gt_instances: Sequence[Instances], center_of_mask: bool = False) -> RankedBoxes:
    """
    Args:
        gt_instances (list[Instances]): of each image, see :class:`.target_assignment.FCOSAssigner`.
        center_of_mask (bool): the centres are those of :func:`.mask_centroids.centers_of_masks`,
            else of the boxes.
    """
    boxes = Boxes.cat([instances.gt_boxes for instances in gt_instances])
    box_idxs = boxes.area().argsort(stable=True)
    classes = torch.cat([instances.gt_classes for instances in gt_instances])
    image_ends = constant_on(list(accumulate(map(len, gt_instances))), box_idxs.device)
    # What is the same for all boxes of an image, without work for each image.
    image_idxs = torch.bucketize(box_idxs, image_ends, right=True)
    xyxy = boxes.tensor.float().T.index_select(1, box_idxs)
    centers = (xyxy[:2] + xyxy[2:]) / 2
    if center_of_mask:
        centers = torch.cat([centers_of_masks(x) for x in gt_instances]).T[:, box_idxs]
    return RankedBoxes(xyxy, centers, image_idxs, box_idxs, classes[box_idxs])
