"""
The result of label assignment: what each location of a batch should predict.

N = images, K = classes, M = gt boxes of the batch, R = locations of an image over all levels,
A = (location, gt box) pairs.
"""

from typing import NamedTuple

from torch import Tensor

__all__ = ["LocationTargets"]


class LocationTargets(NamedTuple):
    """
    The assigned targets: A (location, gt box) pairs, in any order, and the ignored locations.

    A pair counts only where ``is_positive`` is True: there the location is assigned to the box. No
    location has two positive pairs. The other pairs only fill up the tensors, so that their shapes
    do not have to depend on the data.

    Attributes:
        image_idxs (Tensor): (A,) int64, image of the pair.
        location_idxs (Tensor): (A,) int64, index of the location in its image, 0 <= index < R.
        level_idxs (Tensor): (A,) int64, level of the location; 0 is the finest.
        gt_idxs (Tensor): (A,) int64, index of the box among the M boxes of the batch, which are
            concatenated image by image.
        ltrb (Tensor): (A, 4) float32, distances from the location to the sides of the box, in
            pixels.
        weights (Tensor): (A,) float32, weight of the pair in the losses of positives and in the
            totals that normalize them; 0 where the pair is not positive.
        is_positive (Tensor): (A,) bool, whether the location is assigned to the box.
        gt_classes (Tensor): (M,) int64, class of each box.
        num_images (int): N.
        num_locations (int): R.
        is_ignored (Tensor | None): (N, R) bool, locations that are not trained as background. None
            means that there are none.
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
        """The (A,) int64 indices of the pairs' locations among all N * R of the batch."""
        return self.image_idxs * self.num_locations + self.location_idxs  # (A,)

    @property
    def classes(self) -> Tensor:
        """The (A,) int64 classes of the pairs' boxes."""
        return self.gt_classes[self.gt_idxs]  # (A,)

    def matched_idxs(self) -> Tensor:
        """
        Return the box that each location is assigned to.

        Returns:
            Tensor: (N, R) int64 values of ``gt_idxs``; -1 for locations that have no box.
        """
        flat = self.gt_idxs.new_full((self.num_images * self.num_locations,), -1)  # (N * R,)
        # No location has two positive pairs, and every index is above -1.
        matched = self.gt_idxs.where(self.is_positive, -1)  # (A,)
        flat.scatter_reduce_(0, self.flat_location_idxs, matched, "amax")  # (N * R,)
        return flat.view(self.num_images, self.num_locations)  # (N, R)

    def labels(self, num_classes: int) -> Tensor:
        """
        Return the label of each location, with the meaning that labels have in detectron2.

        Positive locations are never ignored.

        Args:
            num_classes (int): K.

        Returns:
            Tensor: (N, R) int64. A label is a class, or K for background, or -1 for an ignored
            location.
        """
        flat = self.gt_idxs.new_full(  # (N * R,)
            (self.num_images * self.num_locations,), num_classes
        )
        # No location has two positive pairs, and every class is below num_classes.
        classes = self.classes.where(self.is_positive, num_classes)  # (A,)
        flat.scatter_reduce_(0, self.flat_location_idxs, classes, "amin")  # (N * R,)
        labels = flat.view(self.num_images, self.num_locations)  # (N, R)
        if self.is_ignored is None:
            return labels
        return labels.masked_fill(self.is_ignored & (labels == num_classes), -1)  # (N, R)
