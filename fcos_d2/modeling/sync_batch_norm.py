"""
BatchNorm over the images of all processes, on CPUs too.

PyTorch's ``nn.SyncBatchNorm`` refuses to train on a CPU as soon as there is a process group.
"""

import logging

import torch
from detectron2.layers import NaiveSyncBatchNorm
from torch import Tensor, nn

__all__ = ["AccurateNaiveSyncBatchNorm", "norm_for_device", "sync_norms_for_device"]

logger = logging.getLogger(__name__)


class AccurateNaiveSyncBatchNorm(NaiveSyncBatchNorm):
    """
    detectron2's, which weighs all processes alike, whatever the sizes of their maps.

    Not in bfloat16: detectron2's forms variances as differences, of which that leaves nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


class _AccurateNaiveSyncBatchNormAct(AccurateNaiveSyncBatchNorm):
    """With what timm's layers do behind the norm."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def norm_for_device(norm: str, device: str) -> str:
    """What to build of a name: "naiveSyncBN" for a "SyncBN" that would raise on the device."""
    if norm != "SyncBN" or _has_sync_batch_norm(device):
        return norm
    logger.info("SyncBN of the head is detectron2's NaiveSyncBatchNorm on %s.", device)
    return "naiveSyncBN"


def sync_norms_for_device(module: nn.Module, device: str) -> None:
    """
    The same for a module that others have built: where it would raise, every nn.SyncBatchNorm
    inside gives way to :class:`AccurateNaiveSyncBatchNorm`. Parameters, buffers and their names
    stay, and an activation that timm has put behind it.
    """
    if _has_sync_batch_norm(device):
        return
    parents = [(m, name, x) for m in module.modules() for name, x in m.named_children()]
    norms = [(m, name, x) for m, name, x in parents if isinstance(x, nn.SyncBatchNorm)]
    if norms:
        logger.info(
            "%d SyncBN of the backbone are detectron2's NaiveSyncBatchNorm on %s.",
            len(norms), device,
        )  # fmt: skip
    for parent, name, norm in norms:
        has_act = hasattr(norm, "act")
        kind = _AccurateNaiveSyncBatchNormAct if has_act else AccurateNaiveSyncBatchNorm
        naive = kind(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        naive._parameters, naive._buffers = norm._parameters, norm._buffers
        naive._modules = norm._modules
        setattr(parent, name, naive)


def _has_sync_batch_norm(device: str) -> bool:
    return torch.device(device).type == "cuda"
