"""
Deformable convolutions with torchvision's operator, which runs on CPU and CUDA.

They do not need the operator of detectron2, which has to be compiled.

N = images, C = channels, Hi x Wi = cells of the input map, Ho x Wo = cells of the output map,
G = deformable groups, S = samples of a kernel (3 x 3 = 9).
"""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from ...errors import InputError

__all__ = ["DeformBottleneck", "DeformableConv", "sample_and_convolve"]

_NUM_SAMPLES = 9  # S, for a 3x3 kernel


class DeformableConv(nn.Module):
    """
    A 3x3 convolution of stride 1 with learnable sampling positions (DCNv2, arXiv:1811.11168).

    For each cell and each of the 9 samples of the kernel, ``offset`` predicts a shift (dy, dx) in
    cells and a mask. It is initialized with zeros: all shifts are 0 and all masks 0.5, so the
    output is half of that of the plain convolution ``conv``.

    Args:
        in_channels (int): Number of channels of the input map.
        out_channels (int): Number of channels of the output map.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(in_channels, 3 * _NUM_SAMPLES, kernel_size=3, padding=1)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.zero_offset()

    def zero_offset(self) -> None:
        """Reset all shifts to 0 and all masks to 0.5."""
        _zero(self.offset)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve a map (N, C, Hi, Wi) to (N, out_channels, Hi, Wi) of the same type."""
        return sample_and_convolve(x, self.offset(x), self.conv, modulated=True)


class DeformBottleneck(BottleneckBlock):
    """
    The bottleneck block of detectron2's ResNet with a deformable 3x3 convolution.

    State-dict names, initialization and results are those of detectron2's
    ``DeformBottleneckBlock``.

    Args:
        in_channels (int): Number of channels of the input map.
        out_channels (int): Number of channels of the output map.
        deform_modulated (bool): Predict masks in addition to shifts (DCNv2, arXiv:1811.11168);
            False is DCN (arXiv:1703.06211).
        deform_num_groups (int): G; all channels of a group are sampled at the same positions.
        **bottleneck (Any): Other arguments of detectron2's BottleneckBlock.

    Raises:
        InputError: If the number of channels of the 3x3 convolution is not divisible by G.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        deform_modulated: bool = False,
        deform_num_groups: int = 1,
        **bottleneck: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, **bottleneck)
        channels = self.conv2.in_channels
        if channels % deform_num_groups:
            raise InputError(
                f"MODEL.RESNETS.DEFORM_NUM_GROUPS = {deform_num_groups} must divide the {channels} "
                "channels of every deformable convolution.",
                key="MODEL.RESNETS.DEFORM_NUM_GROUPS",
                value=deform_num_groups,
            )
        self.deform_modulated = deform_modulated
        self.conv2_offset = Conv2d(
            channels,
            (3 if deform_modulated else 2) * _NUM_SAMPLES * deform_num_groups,
            kernel_size=3,
            stride=self.conv2.stride,
            padding=self.conv2.padding,
            dilation=self.conv2.dilation,
        )
        _zero(self.conv2_offset)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output (N, out_channels, Ho, Wo) of the block for a map (N, C, Hi, Wi)."""
        reduced = F.relu_(self.conv1(x))
        sampled = sample_and_convolve(
            reduced, self.conv2_offset(reduced), self.conv2, self.deform_modulated
        )
        if self.conv2.norm is not None:
            sampled = self.conv2.norm(sampled)
        out = self.conv3(F.relu_(sampled))
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


def sample_and_convolve(x: Tensor, fields: Tensor, conv: nn.Conv2d, modulated: bool) -> Tensor:
    """
    Apply the weights of a convolution to samples at shifted positions.

    The operator runs in float32, also under autocast, because torchvision has none for bfloat16 on
    a CPU.

    Args:
        x (Tensor): (N, C, Hi, Wi) input map.
        fields (Tensor): (N, 3 * G * S, Ho, Wo), or (N, 2 * G * S, Ho, Wo) without masks. The first
            2 * G * S channels are shifts (dy, dx) of each sample, in cells of x. Then there are
            G * S mask logits. The order is that of detectron2 and of the published DCNv2.
        conv (nn.Conv2d): The convolution whose weight, bias, stride, padding and dilation are used.
        modulated (bool): Whether ``fields`` contains masks.

    Returns:
        Tensor: (N, C, Ho, Wo) output map of the type of x, with the output channels of ``conv``.
    """
    dtype = torch.promote_types(conv.weight.dtype, torch.float32)
    fields = fields.to(dtype)
    offset, mask = fields, None  # (N, 2*G*S, Ho, Wo) if there are no masks
    if modulated:
        num_offsets = fields.shape[1] // 3 * 2
        offset = fields[:, :num_offsets]  # (N, 2*G*S, Ho, Wo)
        mask = fields[:, num_offsets:].sigmoid()  # (N, G*S, Ho, Wo)
    result = deform_conv2d(  # (N, C, Ho, Wo)
        x.to(dtype),
        offset,
        conv.weight.to(dtype),
        None if conv.bias is None else conv.bias.to(dtype),
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        mask=mask,
    )
    return result.to(x.dtype)


def _zero(conv: nn.Conv2d) -> None:
    """Set all weights of a convolution to 0."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
