"""
What the locations of a batch should predict: the result of target assignment.

N = images, M = boxes of the batch, R = locations of an image over all levels,
C = (location, box) pairs.
"""

from typing import NamedTuple

from torch import Tensor

__all__ = ["LocationTargets"]


class LocationTargets(NamedTuple):
    """
    The assigned targets: C (location, box) pairs, in any order, and the locations that are ignored.

    A pair counts only where ``is_positive``: there the location belongs to the box, and no location
    has two. The other pairs exist so that shapes need not depend on the data.

    Attributes:
        image_idxs (Tensor): (C,) int64, image of the pair.
        location_idxs (Tensor): (C,) int64, location in the image, 0 <= index < R.
        level_idxs (Tensor): (C,) int64, level of the location, 0 = the finest.
        gt_idxs (Tensor): (C,) int64, box among the M boxes of all images, one after the other.
        ltrb (Tensor): (C, 4) float32, distances from the location to the box's sides, in pixels.
        weights (Tensor): (C,) float32, how much the pair counts in the losses of positives, and as
            how much of a positive in their totals; 0 where not positive.
        is_positive (Tensor): (C,) bool.
        gt_classes (Tensor): (M,) int64, class of each box.
        num_images, num_locations (int): N and R.
        is_ignored (Tensor | None): (N, R) bool, locations that are not taught to be background;
            None: there are none.
    """

    image_idxs: Tensor
    location_idxs: Tensor
    level_idxs: Tensor
    gt_idxs: Tensor
    ltrb: Tensor
    weights: Tensor
    is_positive: Tensor
    gt_classes: Tensor
    num_images: int
    num_locations: int
    is_ignored: Tensor | None = None

    @property
    def flat_location_idxs(self) -> Tensor:
        """(C,) int64, location among the N * R of the batch."""
        return self.image_idxs * self.num_locations + self.location_idxs

    @property
    def classes(self) -> Tensor:
        """(C,) int64, class of the box of each pair."""
        return self.gt_classes[self.gt_idxs]

    def matched_idxs(self) -> Tensor:
        """Compute the dense view (N, R) int64: the index in ``gt_idxs``, or -1 for none."""
        flat = self.gt_idxs.new_full((self.num_images * self.num_locations,), -1)
        # No location has two positive pairs, and -1 overwrites none.
        matched = self.gt_idxs.where(self.is_positive, -1)
        flat.scatter_reduce_(0, self.flat_location_idxs, matched, "amax")
        return flat.view(self.num_images, self.num_locations)

    def labels(self, num_classes: int) -> Tensor:
        """
        Compute the dense view (N, R) int64: the class, ``num_classes`` for background, and -1 for
        locations that are ignored, as detectron2 has it. Positives are never ignored.
        """
        flat = self.gt_idxs.new_full((self.num_images * self.num_locations,), num_classes)
        # No location has two positive pairs, and num_classes is above every class.
        classes = self.classes.where(self.is_positive, num_classes)
        flat.scatter_reduce_(0, self.flat_location_idxs, classes, "amin")
        labels = flat.view(self.num_images, self.num_locations)
        if self.is_ignored is None:
            return labels
        return labels.masked_fill(self.is_ignored & (labels == num_classes), -1)
