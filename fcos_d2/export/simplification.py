"""Simplification of a model before it is traced: the same results, with fewer operations."""

import copy
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..modeling import FCOS
from ..modeling.backbone.folding import replace_folded_pairs

__all__ = ["simplify"]


def simplify(model: FCOS, any_size: bool) -> FCOS:
    """
    Return a copy of a model with folded norms, constant paddings and contiguous weights.

    Args:
        model (FCOS): The model, which is not changed.
        any_size (bool): Make all maps contiguous, because torch.export cannot trace channels-last
            maps of any size.
    """
    copied = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    replace_folded_pairs(copied)
    _fix_paddings(copied)
    if any_size:
        for module in copied.modules():
            if isinstance(module, nn.Conv2d | _PaddedConv):
                module.register_forward_pre_hook(_make_contiguous)
    return copied


def _make_contiguous(conv: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return contiguous inputs of a convolution; some networks permute the dimensions of maps."""
    return tuple(x.contiguous() for x in inputs)


class _PaddedConv(nn.Module):
    """
    A convolution of timm with the padding "same", for maps whose size is a multiple of its stride.

    timm computes the padding from the size of the map. For maps of any size, torch.export would
    need minutes for each of these formulas.

    Args:
        conv (nn.Conv2d): The convolution, a ``Conv2dSame``.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.padding: list[int] = []
        sizes = zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
        for kernel, stride, dilation in reversed([*sizes]):  # F.pad starts with the width
            total = max(dilation * (kernel - 1) + 1 - stride, 0)
            self.padding += [total // 2, total - total // 2]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve a map (N, C, Hi, Wi)."""
        conv = self.conv
        return F.conv2d(
            F.pad(x, self.padding),
            conv.weight,
            conv.bias,
            conv.stride,
            dilation=conv.dilation,
            groups=conv.groups,
        )


def _fix_paddings(model: nn.Module) -> None:
    """Replace each ``Conv2dSame`` of timm, in place."""
    if "timm.layers" not in sys.modules:
        return
    from timm.layers import Conv2dSame

    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and type(child) is Conv2dSame:
                setattr(parent, name, _PaddedConv(child))
