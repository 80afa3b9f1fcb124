"""Functions for training with several processes."""

from typing import Any

import torch
from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from torch import nn

from ..errors import InputError

__all__ = ["leave_process_group", "share_buffers", "wrap_in_ddp"]


def leave_process_group() -> None:
    """Leave the process group, because gloo may abort the process if it ends with open groups."""
    comm.synchronize()
    comm._get_global_gloo_group.cache_clear()  # detectron2 keeps this group in a cache
    torch.distributed.destroy_process_group()


def share_buffers(model: nn.Module) -> None:
    """
    Copy the buffers of the main process to all processes.

    Each process trains on different images, so the running statistics of its batch norms differ
    from those that the main process saves.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def wrap_in_ddp(model: nn.Module, **kwargs: Any) -> nn.Module:
    """
    Wrap the model in DistributedDataParallel if there are several processes, on any device.

    Args:
        model (nn.Module): The model, on its device.
        **kwargs (Any): Arguments of detectron2's create_ddp_model. Buffers are not broadcast by
            default.

    Raises:
        InputError: If parts of the model never get a gradient, because DistributedDataParallel
            would wait for these gradients.
    """
    untrained_maps = getattr(model, "untrained_maps", [])
    if comm.get_world_size() > 1 and untrained_maps:
        raise InputError(
            f"The backbone makes the maps {untrained_maps}, which no level of the head uses, and "
            "several processes cannot train layers that never get a gradient. Add the maps to "
            "MODEL.FCOS.IN_FEATURES, or remove them with MODEL.FPN.IN_FEATURES and "
            "MODEL.FCOS.TOP_LEVELS (in a LazyConfig: head_in_features, or in_features and "
            "top_block of the backbone).",
            key="MODEL.FCOS.IN_FEATURES",
        )
    on_cpu = next(model.parameters()).device.type == "cpu"
    placement = {"device_ids": None} if on_cpu else {}
    return create_ddp_model(model, **{"broadcast_buffers": False, **placement, **kwargs})
