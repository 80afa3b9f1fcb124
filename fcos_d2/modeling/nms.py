"""
Non-maximum suppression within each class, exact for any number of classes.

P = candidates of one image, D = detections.
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import batched_nms

__all__ = ["best_after_nms", "best_of_sorted", "class_wise_nms", "clip_boxes", "has_area"]

# The number of boxes with the highest scores that NMS starts with: at least _FIRST_NUMBER, which
# takes no longer than fewer, and _FIRST_FACTOR * max_detections. If NMS keeps too few of them, the
# number grows by the factor _GROWTH. The time grows with the square of the number.
_FIRST_NUMBER = 800
_FIRST_FACTOR = 2
_GROWTH = 4


def clip_boxes(boxes: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """
    Clip boxes to an image.

    Args:
        boxes (Tensor): (..., 4) xyxy.
        image_size (tuple[int, int]): Height and width.

    Returns:
        tuple[Tensor, Tensor]: The boxes (..., 4), and whether each of them has an area (...,).
        Boxes with NaN have none.
    """
    height, width = image_size
    xs = boxes[..., 0::2].clamp(min=0, max=width)  # (..., 2)
    ys = boxes[..., 1::2].clamp(min=0, max=height)  # (..., 2)
    clipped = torch.stack([xs, ys], dim=-1).flatten(-2)  # (..., 4)
    return clipped, has_area(clipped)


def has_area(boxes: Tensor) -> Tensor:
    """Return whether each of (..., 4) boxes has an area, as (...,)."""
    return (boxes[..., 0] < boxes[..., 2]) & (boxes[..., 1] < boxes[..., 3])


def class_wise_nms(boxes: Tensor, scores: Tensor, classes: Tensor, nms_thresh: float) -> Tensor:
    """
    Apply NMS within each class, without rounding of boxes.

    torchvision separates the classes by adding a large offset to the boxes of each class. With many
    classes, in float32, this rounds boxes by up to a pixel and changes the result. In float64 it
    does not. (detectron2's ``batched_nms`` converts boxes to float32.)

    Args:
        boxes (Tensor): (P, 4) xyxy, all coordinates >= 0.
        scores (Tensor): (P,) scores.
        classes (Tensor): (P,) int64 classes.
        nms_thresh (float): A box is removed if its IoU with a box of the same class and a higher
            score is above this threshold.

    Returns:
        Tensor: int64 indices of the boxes that are kept, by descending score.
    """
    # MPS does not support float64.
    device = torch.device("cpu") if boxes.device.type == "mps" else boxes.device
    exact_boxes = boxes.to(device, torch.float64)  # (P, 4)
    exact_scores = scores.to(device, torch.float64)  # (P,)
    keep = batched_nms(exact_boxes, exact_scores, classes.to(device), nms_thresh)  # (kept,)
    return keep.to(boxes.device)  # (kept,)


def best_after_nms(
    boxes: Tensor, scores: Tensor, classes: Tensor, nms_thresh: float, max_detections: int
) -> Tensor:
    """
    Find the boxes with the highest scores that NMS keeps.

    Args:
        boxes (Tensor): (P, 4) xyxy.
        scores (Tensor): (P,) scores.
        classes (Tensor): (P,) classes.
        nms_thresh (float): See ``class_wise_nms``.
        max_detections (int): Maximum number of boxes.

    Returns:
        Tensor: (D,) int64 indices, by descending score.
    """
    by_score = scores.argsort(descending=True, stable=True)  # (P,)

    def suppress_top(number: int) -> Tensor:
        """Apply NMS to the boxes with the highest scores."""
        top = by_score[:number]  # (at most number,)
        return class_wise_nms(boxes[top], scores[top], classes[top], nms_thresh)  # (kept,)

    return by_score[best_of_sorted(suppress_top, len(by_score), max_detections)]  # (D,)


def best_of_sorted(
    suppress_top: Callable[[int], Tensor], num_boxes: int, max_detections: int
) -> Tensor:
    """
    Find the first boxes that NMS keeps, among boxes that are sorted by descending score.

    Whether NMS keeps a box depends only on boxes with higher scores. So NMS starts with the highest
    scores, and takes in more boxes only if it keeps fewer than ``max_detections``.

    Args:
        suppress_top (Callable): Returns the indices that NMS keeps among the first so many boxes,
            by descending score.
        num_boxes (int): Number of boxes.
        max_detections (int): Maximum number of boxes to return.

    Returns:
        Tensor: (D,) int64 indices, by descending score.
    """
    if torch.jit.is_tracing():  # a trace would have the number of rounds as a constant
        return suppress_top(sys.maxsize)[:max_detections]  # (D,)
    number = max(_FIRST_NUMBER, _FIRST_FACTOR * max_detections)
    while True:
        keep = suppress_top(number)  # (kept,)
        if len(keep) >= max_detections or number >= num_boxes:
            return keep[:max_detections]  # (D,)
        number *= _GROWTH
