"""The annotations of a training batch: whether they fit the model, and their way to its device."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import Boxes, Instances

from ..errors import InputError
from .device_copies import copy_to_device

__all__ = ["check_classes", "copy_annotations"]


def copy_annotations(
    batched_inputs: Sequence[dict[str, Any]], device: torch.device
) -> tuple[list[Instances], list[Boxes] | None]:
    """
    Copy "instances" and "gt_ignore_boxes" to a device, without waiting for the copies.

    Returns:
        (list[Instances], list[Boxes] | None): of each image; None where no image has ignore boxes.
    """
    gt_instances = [copy_to_device(x["instances"], device) for x in batched_inputs]
    none = Boxes(torch.zeros(0, 4))
    boxes_per_image = [x.get("gt_ignore_boxes", none) for x in batched_inputs]
    if not any(len(boxes) for boxes in boxes_per_image):
        return gt_instances, None
    return gt_instances, [copy_to_device(boxes, device) for boxes in boxes_per_image]


def check_classes(gt_instances: Sequence[Instances], num_classes: int) -> None:
    """
    Check that annotations are of the K classes. They are looked at only where that waits for no
    device: on the CPU, where a data loader leaves them.

    Raises:
        InputError: one is not, or they are not integers of 32 or 64 bits.
    """
    for instances in gt_instances:
        classes = instances.gt_classes
        if classes.dtype not in (torch.int64, torch.int32):
            raise InputError(
                f"gt_classes is of type {classes.dtype}, but class indices are torch.int64 (those "
                "of an image without objects too): gt_classes.long()."
            )
        if classes.device.type != "cpu" or not len(classes):
            continue
        low, high = classes.aminmax()
        if low < 0 or high >= num_classes:
            raise InputError(
                f"gt_classes has {int(low if low < 0 else high)}, but MODEL.FCOS.NUM_CLASSES = "
                f"{num_classes} classes are 0 to {num_classes - 1} (background is none of them). "
                "Set it to the number of classes of the dataset."
            )
