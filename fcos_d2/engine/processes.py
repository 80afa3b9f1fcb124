"""One model in several processes."""

from typing import Any

import torch
from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from torch import nn

from ..errors import InputError

__all__ = ["share_buffers", "wrap_in_ddp"]


def share_buffers(model: nn.Module) -> None:
    """
    Give every process the buffers of the main one: each has seen other images, so the running
    statistics of its batch norms differ from those that the main process saves.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def wrap_in_ddp(model: nn.Module, **kwargs: Any) -> nn.Module:
    """
    The model in DistributedDataParallel if there are several processes, on any device.

    Args:
        model (nn.Module): on its device.
        kwargs: those of detectron2's create_ddp_model; buffers are not broadcast by default.

    Raises:
        InputError: parts of the model never get a gradient, for which the others would wait.
    """
    untrained_maps = getattr(model, "untrained_maps", [])
    if comm.get_world_size() > 1 and untrained_maps:
        raise InputError(
            f"The backbone makes {untrained_maps}, which no level of the head uses, and several "
            "processes cannot train what never gets a gradient. Add them to "
            "MODEL.FCOS.IN_FEATURES, or make fewer: MODEL.FPN.IN_FEATURES and "
            "MODEL.FCOS.TOP_LEVELS say which there are (in a LazyConfig: head_in_features, and "
            "in_features and top_block of the backbone)."
        )
    on_cpu = next(model.parameters()).device.type == "cpu"
    placement = {"device_ids": None} if on_cpu else {}
    return create_ddp_model(model, **{"broadcast_buffers": False, **placement, **kwargs})
