"""
Normalization layers by name: those of detectron2, with fixes for two of them.

N = images, C = channels, Hi x Wi = cells of a map.
"""

import logging

import torch
from detectron2.layers import NaiveSyncBatchNorm, get_norm
from torch import Tensor, nn

from ...arguments import Rule

__all__ = ["DETECTRON2_NORM", "NORMS", "build_norm", "sync_norms_for_device"]

logger = logging.getLogger(__name__)

NORMS = ("GN", "BN", "SyncBN", "naiveSyncBN", "")  # names for the towers of the head and BiFPN


def _is_norm_of_detectron2(name: object) -> bool:
    """Return whether detectron2's ``get_norm`` accepts a name."""
    try:
        return isinstance(name, str) and (name == "" or get_norm(name, 32) is not None)
    except KeyError:
        return False


DETECTRON2_NORM = Rule(
    "a norm that detectron2 knows, such as 'FrozenBN', 'BN', 'SyncBN', 'GN' or ''",
    _is_norm_of_detectron2,
)


def build_norm(norm: str, channels: int) -> nn.Module:
    """
    Build a normalization layer, as detectron2's ``get_norm`` with two fixes.

    "GN" accepts maps of any size, and "naiveSyncBN" works in bfloat16.

    Args:
        norm (str): "GN" has 32 groups. "BN" is BatchNorm. "SyncBN" is nn.SyncBatchNorm, with the
            statistics of all processes, on CUDA only. "naiveSyncBN" is detectron2's implementation
            of it for any device, which gives all processes the same weight, even if the sizes of
            their maps differ. "" (no normalization) has no layer and is not accepted here.
        channels (int): C; for "GN" a multiple of 32.
    """
    fixed = {"GN": _GroupNorm, "naiveSyncBN": _NaiveSyncBatchNorm}
    return get_norm(fixed.get(norm, norm), channels)


def sync_norms_for_device(module: nn.Module, device: str) -> None:
    """
    Replace every SyncBatchNorm in a module by detectron2's NaiveSyncBatchNorm, except on CUDA.

    PyTorch's SyncBatchNorm cannot train on a CPU if there is a process group. Parameters, buffers,
    their names and the training mode are kept, and also the activation after the norm in layers of
    timm. The replacement is in place, so ``module`` itself is not replaced.

    Args:
        module (nn.Module): A backbone or a head.
        device (str): The device on which it will run.
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
        cls = _NaiveSyncBatchNormAct if has_act else _NaiveSyncBatchNorm
        naive = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        naive._parameters, naive._buffers = norm._parameters, norm._buffers
        naive._modules = norm._modules
        naive.training = norm.training
        setattr(parent, name, naive)


class _NaiveSyncBatchNorm(NaiveSyncBatchNorm):
    """
    detectron2's NaiveSyncBatchNorm, computed in float32.

    detectron2 computes a variance as the difference of two means, which loses all precision in
    bfloat16.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a map (N, C, Hi, Wi), and return it in its own type."""
        return super().forward(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


class _NaiveSyncBatchNormAct(_NaiveSyncBatchNorm):
    """A NaiveSyncBatchNorm followed by dropout and activation, as in timm's BatchNormAct2d."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a map (N, C, Hi, Wi), and apply dropout and activation."""
        return self.act(self.drop(super().forward(x)))


class _GroupNorm(nn.GroupNorm):
    """
    A GroupNorm of 32 groups for maps of any size.

    With one channel in a group, PyTorch's GroupNorm raises an error for maps of a single cell, also
    in inference, because they have no variance. Here their normalized value is 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a map (N, C, Hi, Wi)."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
