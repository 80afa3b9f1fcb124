"""
The towers of the head: convolutions that all levels share, norms that they share or do not.

N = images, C = channels, L = levels, Hi x Wi = cells of level i.
"""

import logging

import torch
from detectron2.layers import NaiveSyncBatchNorm, get_norm
from torch import Tensor, nn

from .deformable import DeformableConv

__all__ = ["FloatNaiveSyncBatchNorm", "NormPerLevel", "Tower", "build_tower", "norm_for_device"]

logger = logging.getLogger(__name__)


class Tower(nn.Sequential):
    """A plain nn.Sequential, but that it tells :class:`NormPerLevel` which level a map is of."""

    def forward(self, x: Tensor, level: int) -> Tensor:  # type: ignore[override]
        """
        Args:
            x (Tensor): (N, C, Hi, Wi), a map of that level.
            level (int): i, from 0 for the finest, whose norms are to be used.

        Returns:
            Tensor: (N, C', Hi, Wi).
        """
        for layer in self:
            x = layer(x, level) if isinstance(layer, NormPerLevel) else layer(x)
        return x


def build_tower(
    in_channels: int,
    channels: int,
    num_convs: int,
    norm: str,
    num_levels: int,
    deformable: bool = False,
) -> Tower:
    """
    (Convolution 3x3, norm, ReLU) again and again.

    Args:
        in_channels (int): of the maps.
        channels (int): of every convolution's output. GN wants a multiple of 32.
        num_convs (int): 0 makes a tower that gives back what it gets.
        norm (str): "GN": 32 groups, shared by all levels; "BN", "SyncBN" or "naiveSyncBN": see
            :class:`NormPerLevel`; "": none.
        num_levels (int): L.
        deformable (bool): the last convolution is a :class:`.deformable.DeformableConv`.
    """
    layers: list[nn.Module] = []
    for index in range(num_convs):
        # The convolutions keep their bias under a norm: so did every released checkpoint.
        if deformable and index == num_convs - 1:
            layers.append(DeformableConv(in_channels, channels))
        else:
            layers.append(nn.Conv2d(in_channels, channels, kernel_size=3, padding=1))
        if norm == "GN":
            layers.append(_GroupNorm(channels))
        elif norm:
            layers.append(NormPerLevel(norm, channels, num_levels))
        layers.append(nn.ReLU(inplace=True))
        in_channels = channels
    return Tower(*layers)


class NormPerLevel(nn.ModuleList):
    """
    One BatchNorm a level: maps of different levels have different statistics, and one running
    average of all of them would fit none in inference.

    The caller says which level a map is of. Nothing counts calls, so levels may come in any order,
    more than once, or not at all.

    Args:
        norm (str): "BN"; "SyncBN": statistics of all processes, CUDA only (nn.SyncBatchNorm);
            "naiveSyncBN": detectron2's, anywhere; it weighs all processes alike, whatever the sizes
            of their maps. State dicts of the three are the same.
        channels (int): C.
        num_levels (int): L.
    """

    def __init__(self, norm: str, channels: int, num_levels: int) -> None:
        kind = FloatNaiveSyncBatchNorm if norm == "naiveSyncBN" else norm
        super().__init__(get_norm(kind, channels) for _ in range(num_levels))

    def forward(self, x: Tensor, level: int) -> Tensor:
        return self[level](x)


class FloatNaiveSyncBatchNorm(NaiveSyncBatchNorm):
    """
    detectron2's, but never in bfloat16: it forms variances as differences, of which that leaves
    nothing.
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


def norm_for_device(key: str, norm: str, device: str) -> str:
    """
    PyTorch's SyncBatchNorm refuses to train on a CPU as soon as there is a process group.

    Args:
        key (str): of the config, for the log.
        norm (str): its value.
        device (str): MODEL.DEVICE.

    Returns:
        str: "naiveSyncBN" for "SyncBN" where there is no CUDA, else ``norm``.
    """
    if norm != "SyncBN" or torch.device(device).type == "cuda":
        return norm
    logger.info("%s = 'SyncBN' on %s is detectron2's NaiveSyncBatchNorm.", key, device)
    return "naiveSyncBN"
