"""
Non-maximum suppression as a mask over all candidates, so that no output depends on the data.

N = images, T = candidates of an image, P = candidates that are not padding.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torchvision.ops import nms

__all__ = ["SuppressionFunction", "find_kept", "without_nms_warning"]

_EXTRA_BOXES = [[-2.0, -2.0, -1.0, -1.0], [-4.0, -4.0, -3.0, -3.0]]  # all others are >= 0
# A function with the arguments and the result of ``find_kept``.
SuppressionFunction = Callable[[Tensor, Tensor, Tensor, int, float], Tensor]


@contextmanager
def without_nms_warning() -> Iterator[None]:
    """Leave out a warning about torchvision's own code that programs with its NMS cause."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`create_unbacked_symint` is deprecated")
        yield


def find_kept(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    num_classes: int,
    nms_thresh: float,
) -> Tensor:
    """
    Find the boxes that NMS keeps within each image and class, with torchvision's operator.

    Args:
        boxes (Tensor): (N, T, 4) float32 xyxy, all coordinates >= 0.
        scores (Tensor): (N, T) float32 scores; -1 for padding.
        classes (Tensor): (N, T) int64.
        num_classes (int): The number of classes.
        nms_thresh (float): A box is removed if its IoU with a box of the same image and class and
            a higher score is above this threshold.

    Returns:
        Tensor: (N, T) bool, whether each box is kept.
    """
    valid_idxs = (scores > -1).flatten().nonzero().squeeze(1)  # (P,)
    # Boxes of different images and classes are moved so that they do not overlap. In float64, this
    # rounds them by less than a millionth of a pixel.
    image_idxs = torch.arange(boxes.shape[0], device=boxes.device)[:, None]  # (N, 1)
    groups = (image_idxs * num_classes + classes).double()  # (N, T)
    offsets = groups * (boxes.amax().double() + 1)  # (N, T)
    moved_boxes = (boxes.double() + offsets[:, :, None]).flatten(0, 1)  # (N*T, 4)
    # torchvision declares that at least two boxes are kept. Otherwise, a program of torch.export
    # fails. So two more boxes are added, which overlap no other box.
    extra_boxes = moved_boxes.new_tensor(_EXTRA_BOXES)  # (2, 4)
    kept = nms(  # (kept,)
        torch.cat([extra_boxes, moved_boxes[valid_idxs]]),
        torch.cat([extra_boxes.new_zeros(2), scores.flatten()[valid_idxs].double()]),
        nms_thresh,
    )
    # Index 0 and 1 of the mask are for the additional boxes.
    idxs = torch.cat([torch.arange(2, device=boxes.device), valid_idxs + 2])[kept]  # (kept,)
    is_kept = scores.new_zeros(scores.numel() + 2, dtype=torch.bool)  # (N*T + 2,)
    return is_kept.index_fill(0, idxs, True)[2:].view_as(scores)  # (N, T)
