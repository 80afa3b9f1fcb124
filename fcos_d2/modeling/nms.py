"""
Non-maximum suppression within each class, exact for any number of classes.

P = candidates of one image.
"""

import torch
from torch import Tensor
from torchvision.ops import batched_nms

__all__ = ["class_wise_nms"]


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
