"""The objects that a picture shows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .keypoints import Skeleton

__all__ = ["DrawnObjects"]


class DrawnObjects(NamedTuple):
    """
    What is drawn of M objects. The first ones are the most important ones.

    Attributes:
        boxes (array): (M, 4) xyxy in pixels of the image.
        classes (list[int]): M class indices. -1 is a crowd, whose box is dashed and gray.
        labels (list[str]): M names near the boxes, or "". Long names are shortened.
        masks (list[array | None]): M masks (H, W) bool; None for an object without one. Empty if no
            object has one.
        keypoints (list[array | None]): M arrays (P, 3) of positions x and y in the image, where the
            center of the first pixel is (0.5, 0.5), and COCO's visibility: 0 is not drawn, 1 is
            hidden, and 2 is visible. None for an object without keypoints. Empty if no object has
            any.
        skeleton (Skeleton): The lines between the keypoints of an object.
        scores (list[float]): M scores from 0 to 1, which are written after the labels. Empty if the
            objects have none.
    """

    boxes: NDArray[Any]
    classes: Sequence[int]
    labels: Sequence[str]
    masks: Sequence[NDArray[np.bool_] | None] = ()
    keypoints: Sequence[NDArray[Any] | None] = ()
    skeleton: Skeleton = Skeleton()
    scores: Sequence[float] = ()
