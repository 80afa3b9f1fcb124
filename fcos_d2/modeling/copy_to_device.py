"""Copies of tensors and detectron2's structures to a device, without waiting for the copies."""

import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor

__all__ = ["copy_to_device"]


def copy_to_device(
    value: Tensor | Boxes | Instances | BitMasks | PolygonMasks, device: torch.device
) -> Tensor | Boxes | Instances | BitMasks | PolygonMasks:
    """
    Copy a value to a device without waiting for the copy.

    The result is that of ``value.to(device)``. A copy to a GPU is only started, and later work on
    the GPU runs after it. The ``to`` methods of detectron2's structures do not have this option.

    Args:
        value (Tensor | Boxes | Instances | BitMasks | PolygonMasks): What to copy. All fields of
            Instances are copied. Masks and other types are copied with their ``to`` method, for
            which the host may wait. Values without this method are returned as they are.
        device (torch.device): The target device.
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
