"""Copies to the model's device that the host does not wait for."""

from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

__all__ = ["copy_to_device"]


def copy_to_device(value: Any, device: torch.device) -> Any:
    """
    What ``value.to(device)`` gives, but that a copy to a GPU is only begun: detectron2's structures
    have no way to say so. What comes after it on the GPU sees the copy.

    Args:
        value: a Tensor; Boxes; Instances, of which all fields are copied; anything else (masks) in
            its own way.
    """
    if isinstance(value, Tensor):
        if value.dtype == torch.float64:  # images of INPUT.FORMAT YUV-BT.601
            value = value.float()
        return value.to(device, non_blocking=True)
    if type(value) is Boxes:
        return Boxes(copy_to_device(value.tensor, device))
    if isinstance(value, Instances):
        fields = {name: copy_to_device(x, device) for name, x in value.get_fields().items()}
        return Instances(value.image_size, **fields)
    return value.to(device) if hasattr(value, "to") else value
