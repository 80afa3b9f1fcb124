"""The annotations of a training batch: the check of their classes, and their copy to the device."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import Boxes, Instances

from ..errors import InputError
from .copy_to_device import copy_to_device

__all__ = ["check_classes", "copy_annotations"]


def copy_annotations(
    batched_inputs: Sequence[dict[str, Any]], device: torch.device
) -> tuple[list[Instances], list[Boxes] | None]:
    """
    Copy "instances" and "gt_ignore_boxes" to a device, without waiting for the copies.

    Args:
        batched_inputs (list[dict]): Outputs of a dataset mapper, one for each image.
        device (torch.device): The target device.

    Returns:
        tuple[list[Instances], list[Boxes] | None]: Annotations and ignore boxes of each image. The
        latter are None if no image has any.
    """
    gt_instances = [copy_to_device(x["instances"], device) for x in batched_inputs]
    no_boxes = Boxes(torch.zeros(0, 4))
    boxes_per_image = [x.get("gt_ignore_boxes", no_boxes) for x in batched_inputs]
    if not any(len(boxes) for boxes in boxes_per_image):
        return gt_instances, None
    return gt_instances, [copy_to_device(boxes, device) for boxes in boxes_per_image]


def check_classes(gt_instances: Sequence[Instances], num_classes: int) -> None:
    """
    Check that the classes of annotations are valid indices of the K classes.

    Values are checked only on the CPU, where data loaders put them: on a GPU, the host would have
    to wait for them.

    Args:
        gt_instances (list[Instances]): Annotations of each image, with ``gt_classes``.
        num_classes (int): K.

    Raises:
        InputError: If a class is not below K, or if the classes are not int32 or int64.
    """
    for instances in gt_instances:
        classes = instances.gt_classes
        if classes.dtype not in (torch.int64, torch.int32):
            raise InputError(
                f"gt_classes is of type {classes.dtype}, but class indices must be torch.int64, "
                "also in an image without objects: use gt_classes.long().",
                key="gt_classes",
                value=classes.dtype,
            )
        if classes.device.type != "cpu" or not len(classes):
            continue
        low, high = classes.aminmax()
        if low < 0 or high >= num_classes:
            raise InputError(
                f"gt_classes has {int(low if low < 0 else high)}, but MODEL.FCOS.NUM_CLASSES = "
                f"{num_classes} means classes 0 to {num_classes - 1} (without background). Set it "
                "to the number of classes of the dataset.",
                key="MODEL.FCOS.NUM_CLASSES",
                value=num_classes,
            )
