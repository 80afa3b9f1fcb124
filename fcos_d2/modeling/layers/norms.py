"""detectron2's norm layers by name, and what two of them need to work everywhere."""

import logging
from typing import Any

import torch
from detectron2.layers import NaiveSyncBatchNorm, get_norm
from torch import Tensor, nn

from ...arguments import Rule

__all__ = ["DETECTRON2_NORM", "NORMS", "build_norm", "sync_norms_for_device"]

logger = logging.getLogger(__name__)

NORMS = ("GN", "BN", "SyncBN", "naiveSyncBN", "")  # that parts of this project take


def _is_norm_of_detectron2(name: Any) -> bool:
    try:
        return isinstance(name, str) and (name == "" or get_norm(name, 32) is not None)
    except KeyError:
        return False


DETECTRON2_NORM = Rule(
    "a norm that detectron2 knows, such as 'FrozenBN', 'BN', 'SyncBN', 'GN' or ''",
    _is_norm_of_detectron2,
)


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


def sync_norms_for_device(module: nn.Module, device: str) -> None:
    """
    PyTorch's SyncBatchNorm refuses to train on a CPU as soon as there is a process group: unless
    the device is CUDA, every one inside of a module gives way to detectron2's NaiveSyncBatchNorm.
    Parameters, buffers, their names and the mode stay, and an activation that timm has put behind.
    A module that is itself a SyncBatchNorm has nobody around it to replace it, and stays.
    """
    if torch.device(device).type == "cuda":
        return
    parents = [(m, name, x) for m in module.modules() for name, x in m.named_children()]
    norms = [(m, name, x) for m, name, x in parents if isinstance(x, nn.SyncBatchNorm)]
    if norms:
        logger.info(
            "%d SyncBN of %s are detectron2's NaiveSyncBatchNorm on %s.",
            len(norms),
            type(module).__name__,
            device,
        )
    for parent, name, norm in norms:
        has_act = hasattr(norm, "act")
        kind = _NaiveSyncBatchNormAct if has_act else _NaiveSyncBatchNorm
        naive = kind(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        naive._parameters, naive._buffers = norm._parameters, norm._buffers
        naive._modules = norm._modules
        naive.training = norm.training
        setattr(parent, name, naive)


class _NaiveSyncBatchNorm(NaiveSyncBatchNorm):
    """
    Not in bfloat16: detectron2's forms variances as differences, of which that leaves nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


class _NaiveSyncBatchNormAct(_NaiveSyncBatchNorm):
    """With what timm's layers do behind the norm."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class _GroupNorm(nn.GroupNorm):
    """
    32 groups, on maps of any size. With a single channel a group PyTorch's own refuses maps of one
    cell, in inference too, for they have no variance; normalised, they are 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
