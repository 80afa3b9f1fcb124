"""Non-maximum suppression within each class, exact for any number of classes."""

import torch
from torch import Tensor
from torchvision.ops import batched_nms

__all__ = ["class_wise_nms"]


def class_wise_nms(boxes: Tensor, scores: Tensor, classes: Tensor, nms_thresh: float) -> Tensor:
    """
    Apply NMS within each class, exactly.

    torchvision moves classes apart by offsets: in float32 these round boxes, by up to a pixel where
    there are many classes, which changes what is kept; in float64 they do not. (detectron2's
    function of the same purpose goes back to float32.)

    Args:
        boxes (Tensor): (P, 4) xyxy, none below 0.
        scores, classes (Tensor): (P,).
        nms_thresh (float): a box is removed if its IoU with a better one of its class is higher.

    Returns:
        Tensor: int64 indices of the boxes that are kept, by descending score.
    """
    # MPS has no float64.
    device = torch.device("cpu") if boxes.device.type == "mps" else boxes.device
    exact_boxes, exact_scores = (x.to(device, torch.float64) for x in (boxes, scores))
    keep = batched_nms(exact_boxes, exact_scores, classes.to(device), nms_thresh)
    return keep.to(boxes.device)
