"""Do backbone, head, target assigner and annotations fit together?"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import FPN, Backbone
from detectron2.structures import Instances

from ..errors import InputError
from .bifpn import BiFPN

__all__ = ["check_classes", "check_fits", "find_untrained_maps"]

# What follows when a part and the model do not agree on an attribute.
_MISFITS = {
    "num_classes": "build both with the same",
    "in_channels": "build the head with the channels of the maps in head_in_features",
    "num_levels": "build the head with as many input_shape as there are head_in_features",
    "predict_quality": "a head has a branch for the quality unless box_quality is 'none'",
}


def find_untrained_maps(backbone: Backbone, feature_names: Sequence[str]) -> list[str]:
    """Maps that only weights of their own lead to: all of a neck, else what is behind the last."""
    shapes = backbone.output_shape()
    last_stride = shapes[feature_names[-1]].stride
    return [
        name
        for name, shape in shapes.items()
        if name not in feature_names
        and (isinstance(backbone, FPN | BiFPN) or shape.stride > last_stride)
    ]


def check_fits(part_name: str, part: Any, expected: dict[str, Any]) -> None:
    """
    What a part says of itself must be what the model says.

    Raises:
        InputError: it is not.
    """
    for attribute, of_model in expected.items():
        of_part = getattr(part, attribute, of_model)
        if of_part != of_model:
            raise InputError(
                f"The {part_name}'s {attribute} is {of_part}, the model's is {of_model}: "
                f"{_MISFITS[attribute]}."
            )


def check_classes(gt_instances: Sequence[Instances], num_classes: int) -> None:
    """
    Whether annotations are of the K classes. They are looked at only where that waits for no
    device: on the CPU, where a data loader leaves them.

    Raises:
        InputError: one is not, or they are no integers of 32 or 64 bits.
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
