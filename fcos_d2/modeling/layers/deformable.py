"""
Deformable convolutions on torchvision's operator: no compiled part of detectron2, CPU and CUDA.

N = images, C = channels, H x W = cells, G = deformable groups, S = samples of a kernel (3 x 3 = 9).
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

_NUM_SAMPLES = 9  # of a 3x3 kernel


class DeformableConv(nn.Module):
    """
    3x3 convolution of stride 1 that learns where to look (DCNv2, arXiv:1811.11168).

    ``offset`` predicts, for each cell and each of the 9 samples, a shift (dy, dx) in cells and a
    mask. It starts at zero: no shifts, masks of 0.5, so half of what ``conv`` alone would give.

    Args:
        in_channels, out_channels (int): of the maps.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(in_channels, 3 * _NUM_SAMPLES, kernel_size=3, padding=1)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.zero_offset()

    def zero_offset(self) -> None:
        """Back to no shifts and masks of 0.5."""
        _zero(self.offset)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W), of the same type."""
        return sample_and_convolve(x, self.offset(x), self.conv, modulated=True)


class DeformBottleneck(BottleneckBlock):
    """
    detectron2's bottleneck with a deformable 3x3 convolution.

    State-dict names, start and results are those of detectron2's ``DeformBottleneckBlock``, whose
    operator must be compiled.

    Args:
        in_channels, out_channels (int): of the block's maps.
        deform_modulated (bool): masks beside the shifts (DCNv2); without: DCN (arXiv:1703.06211).
        deform_num_groups (int): G; channels of one group are sampled at the same places.
        **bottleneck: see detectron2's BottleneckBlock.

    Raises:
        InputError: G does not divide the channels of the 3x3 convolution.
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
                "channels of every deformable convolution."
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
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
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
    Apply the weights of a convolution to samples taken at shifted places.

    Args:
        x (Tensor): (N, C, H, W).
        fields (Tensor): (N, 3GS or 2GS, H', W') of the size of the convolution's output. First 2GS
            channels: shifts (dy, dx) in cells of x, sample by sample; then, if modulated, GS masks
            before their sigmoid. The order is that of detectron2 and of the published DCNv2.
        conv (nn.Conv2d): its weight, bias, stride, padding and dilation are used, nothing else.
        modulated (bool): whether ``fields`` has masks.

    Returns:
        Tensor: (N, C', H', W'), of the type of x. The operator itself runs in float32, under
        autocast too: torchvision has none for bfloat16 on a CPU.
    """
    dtype = torch.promote_types(conv.weight.dtype, torch.float32)
    fields = fields.to(dtype)
    offset, mask = fields, None
    if modulated:
        num_offsets = fields.shape[1] // 3 * 2
        offset, mask = fields[:, :num_offsets], fields[:, num_offsets:].sigmoid()
    result = deform_conv2d(
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
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
