"""detectron2's norm layers by name, and what two of them need to work everywhere."""

import logging
from typing import Any

import torch
from detectron2.layers import NaiveSyncBatchNorm, get_norm
from torch import Tensor, nn

__all__ = ["build_norm", "norm_for_device"]

logger = logging.getLogger(__name__)


def build_norm(norm: str, channels: int) -> Any:
    """
    detectron2's get_norm, but that "GN" takes maps of any size and "naiveSyncBN" works in bfloat16.

    Args:
        norm (str): "GN": 32 groups; "BN"; "SyncBN": statistics of all processes, CUDA only
            (nn.SyncBatchNorm); "naiveSyncBN": detectron2's, anywhere; it weighs all processes
            alike, whatever the sizes of their maps; "": none.
        channels (int): of the maps. GN wants a multiple of 32.

    Returns:
        nn.Module, or None for "".
    """
    kinds = {"GN": _GroupNorm, "naiveSyncBN": _NaiveSyncBatchNorm}
    return get_norm(kinds.get(norm, norm), channels)


def norm_for_device(norm: str, device: str, key: str) -> str:
    """
    PyTorch's SyncBatchNorm refuses to train on a CPU as soon as there is a process group: where
    that is the device, "naiveSyncBN" stands in for "SyncBN", and a log line says so.

    Args:
        norm (str): see :func:`build_norm`.
        device (str): MODEL.DEVICE.
        key (str): of the config, that the norm comes from.
    """
    if norm != "SyncBN" or torch.device(device).type == "cuda":
        return norm
    logger.info("%s = 'SyncBN' on %s is detectron2's NaiveSyncBatchNorm.", key, device)
    return "naiveSyncBN"


class _NaiveSyncBatchNorm(NaiveSyncBatchNorm):
    """
    Not in bfloat16: detectron2's forms variances as differences, of which that leaves nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


class _GroupNorm(nn.GroupNorm):
    """
    32 groups, on maps of any size. With a single channel a group PyTorch's own refuses maps of one
    cell, in inference too, for they have no variance; normalised, they are 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
