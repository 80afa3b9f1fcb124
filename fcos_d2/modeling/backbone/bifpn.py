"""
BiFPN, the neck of EfficientDet (arXiv:1911.09070, Sec. 3), in the variant of AdelaiDet's FCOS.

It fuses feature maps with learnable weights, repeatedly from coarse to fine and back. In
AdelaiDet's variant the convolutions are plain instead of depthwise separable. They have more
parameters, but run efficiently on GPUs.

N = images, C = channels of all levels, L = levels, Hi x Wi = cells of level i, H x W = height and
width of the image in pixels.
"""

from collections.abc import Sequence
from functools import reduce

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ...arguments import Arguments, integer, one_of
from ...errors import InputError
from ..layers.norms import NORMS, build_norm
from .fpn import TOP_LEVELS, check_in_features

__all__ = [
    "BIFPN_ARGUMENTS",
    "BiFPN",
    "BiFPNLayer",
    "build_fcos_bifpn",
    "downsample",
    "fuse",
    "upsample",
]


def fuse(maps: Sequence[Tensor], weights: Tensor, eps: float = 1e-4) -> Tensor:
    """
    Compute the weighted mean of maps: "fast normalized fusion" (arXiv:1911.09070, Sec. 3.3).

    Args:
        maps (list[Tensor]): Maps (N, C, Hi, Wi) of the same shape.
        weights (Tensor): (number of maps,) weights; negative ones count as 0.
        eps (float): Value that is added to the sum of the weights.

    Returns:
        Tensor: (N, C, Hi, Wi).
    """
    weights = weights.relu()  # (number of maps,)
    weights = weights / (weights.sum() + eps)  # (number of maps,)
    # unbind() makes scalar tensors, which do not change the type that autocast gave to the maps.
    return reduce(torch.add, (x * w for x, w in zip(maps, weights.unbind(), strict=True)))


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """
    Resize a map to the size of the next finer level, by the nearest cell.

    Args:
        x (Tensor): (N, C, Hi, Wi) map.
        size (tuple[int, int]): New height and width in cells: at most twice those of x.

    Returns:
        Tensor: (N, C, *size).
    """
    return F.interpolate(x, size=size, mode="nearest")


def downsample(x: Tensor) -> Tensor:
    """
    Resize a map to the size of the next coarser level, by a 3x3 max pooling of stride 2.

    Args:
        x (Tensor): (N, C, Hi, Wi) map.

    Returns:
        Tensor: (N, C, Hi / 2, Wi / 2), rounded up.
    """
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class _Node(nn.Module):
    """A node of a BiFPN: fuse several maps of the same size, SiLU, 3x3 convolution."""

    def __init__(self, num_maps: int, channels: int, norm: str) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(num_maps))
        self.conv = _convolution(channels, channels, 3, norm)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Fuse maps (N, C, Hi, Wi) into one."""
        return self.conv(F.silu(fuse(maps, self.weights)))


class BiFPNLayer(nn.Module):
    """
    A layer of a BiFPN, which goes once from coarse to fine and once back.

    See arXiv:1911.09070, Fig. 3.

    - Top-down, from coarse to fine: every level except the coarsest fuses its input with the result
      of the next coarser level.
    - Bottom-up, from fine to coarse: every level except the finest fuses its input, its top-down
      result (the coarsest level has none) and the result of the next finer level.

    Args:
        in_channels (list[int]): Number of channels of each of the L >= 2 levels, from fine to
            coarse. A level with another number than C gets a 1x1 convolution to C channels.
        out_channels (int): C.
        norm (str): Normalization after each convolution, a name in ``layers.norms.NORMS``.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, norm: str) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            _projection(channels, out_channels, norm) for channels in in_channels
        )
        num_nodes = len(in_channels) - 1
        # Index i is level i.
        self.top_down = nn.ModuleList(_Node(2, out_channels, norm) for _ in range(num_nodes))
        # Index i is level i + 1.
        self.bottom_up = nn.ModuleList(
            _Node(3 if i < num_nodes - 1 else 2, out_channels, norm) for i in range(num_nodes)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """
        Fuse the maps of all levels.

        Args:
            maps (list[Tensor]): L maps (N, in_channels, Hi, Wi), from fine to coarse; the height
                and width of each are half of those of the previous one, rounded up.

        Returns:
            list[Tensor]: L maps (N, C, Hi, Wi).
        """
        maps = [project(x) for project, x in zip(self.projections, maps, strict=True)]
        coarsest = len(maps) - 1
        top_down_maps = list(maps)
        for level in reversed(range(coarsest)):
            x = maps[level]
            coarser = upsample(top_down_maps[level + 1], (x.shape[2], x.shape[3]))
            top_down_maps[level] = self.top_down[level]([x, coarser])
        results = top_down_maps[:1]
        for level in range(1, coarsest + 1):
            x = maps[level]
            inputs = [x, downsample(results[-1])]
            if not torch.compiler.is_compiling():  # maps of one cell would be broadcast
                assert inputs[1].shape == x.shape, (inputs[1].shape, x.shape)
            if level < coarsest:
                inputs.insert(1, top_down_maps[level])
            results.append(self.bottom_up[level - 1](inputs))
        return results


BIFPN_ARGUMENTS = Arguments(
    "MODEL.BIFPN",
    elsewhere={"top_levels": "MODEL.FCOS"},
    top_levels=TOP_LEVELS,
    num_repeats=integer(at_least=1),
    out_channels=integer(at_least=1),
    norm=one_of(*NORMS),
)


class BiFPN(Backbone):
    """
    A bottom-up network with a BiFPN neck on its maps and on extra, max-pooled levels.

    Args:
        bottom_up (Backbone): The network. In the state dict it has this name, as in detectron2's
            FPN, so that the same weights can be loaded.
        in_features (list[str]): Names of its maps to use, from fine to coarse.
        top_levels (int): Number of extra levels: 0, 1 (P6) or 2 (P6 and P7, if the maps go up to
            stride 32). P6 is made from the last map: by a 1x1 convolution, if its number of
            channels is not C, and max pooling. P7 is the max pooling of P6.
        num_repeats (int): Number of ``BiFPNLayer``, each with separate weights.
        out_channels (int): C.
        norm (str): Normalization after each convolution, a name in ``layers.norms.NORMS``.

    Raises:
        InputError: If a value is out of its range, the maps do not fit together, or there is only
            one level.
    """

    def __init__(
        self,
        *,
        bottom_up: Backbone,
        in_features: Sequence[str],
        top_levels: int = 2,
        num_repeats: int = 6,
        out_channels: int = 160,
        norm: str = "SyncBN",
    ) -> None:
        super().__init__()
        check_in_features(in_features, bottom_up)
        BIFPN_ARGUMENTS.check(locals())
        if norm == "GN" and out_channels % 32:
            raise InputError(
                "MODEL.BIFPN.NORM = 'GN' normalizes 32 groups: MODEL.BIFPN.OUT_CHANNELS = "
                f"{out_channels} must be a multiple of 32, or choose another NORM.",
                key="MODEL.BIFPN.OUT_CHANNELS",
                value=out_channels,
            )
        if len(in_features) + top_levels < 2:
            raise InputError(
                f"MODEL.FPN.IN_FEATURES = {list(in_features)} and MODEL.FCOS.TOP_LEVELS = "
                f"{top_levels} make one level, and a BiFPN fuses at least two. Add a map or a top "
                "level.",
                key="MODEL.FPN.IN_FEATURES",
                value=list(in_features),
            )
        shapes = bottom_up.output_shape()
        channels = [shapes[name].channels for name in in_features]
        strides = [shapes[name].stride for name in in_features]
        # detectron2's FPN returns the coarsest stride. The network may require a larger number.
        # (detectron2's Swin does not declare its own size_divisibility.)
        self._size_divisibility = max(strides[-1], getattr(bottom_up, "size_divisibility", 0))
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self.top_levels = top_levels
        self.top_projection = (
            _projection(channels[-1], out_channels, norm) if top_levels else nn.Identity()
        )
        channels += [out_channels] * top_levels
        strides += [strides[-1] * 2**i for i in range(1, top_levels + 1)]
        self.layers = nn.ModuleList(
            BiFPNLayer(channels if i == 0 else [out_channels] * len(channels), out_channels, norm)
            for i in range(num_repeats)
        )
        self._out_features = [f"p{stride.bit_length() - 1}" for stride in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @property
    def size_divisibility(self) -> int:
        """The number of pixels that must divide the height and the width of images."""
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The padding constraints of the bottom-up network."""
        return self.bottom_up.padding_constraints

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Compute the feature maps of images.

        Args:
            x (Tensor): (N, image channels, H, W) normalized images; H and W must be multiples of
                ``size_divisibility``.

        Returns:
            dict[str, Tensor]: Maps (N, C, Hi, Wi) by name ("p3", ...), from fine to coarse. Hi and
            Wi are H / stride and W / stride, rounded up.
        """
        bottom_up_maps = self.bottom_up(x)
        maps = [bottom_up_maps[name] for name in self.in_features]
        top = self.top_projection(maps[-1])
        for _ in range(self.top_levels):
            top = downsample(top)
            maps.append(top)
        for layer in self.layers:
            maps = layer(maps)
        return dict(zip(self._out_features, maps, strict=True))


def build_fcos_bifpn(cfg: CfgNode, bottom_up: Backbone) -> BiFPN:
    """
    Build a BiFPN (MODEL.BIFPN) on a bottom-up network, with MODEL.FCOS.TOP_LEVELS extra levels.

    Args:
        cfg (CfgNode): The config.
        bottom_up (Backbone): The bottom-up network.

    Raises:
        InputError: See ``BiFPN``.
    """
    return BiFPN(
        bottom_up=bottom_up, in_features=cfg.MODEL.FPN.IN_FEATURES, **BIFPN_ARGUMENTS.read(cfg)
    )


def _convolution(in_channels: int, out_channels: int, size: int, norm: str) -> nn.Module:
    """Build a convolution with ``size`` x ``size`` kernels, followed by a norm."""
    layer = build_norm(norm, out_channels) if norm else None
    conv = Conv2d(in_channels, out_channels, size, padding=size // 2, bias=not norm, norm=layer)
    weight_init.c2_xavier_fill(conv)
    return conv


def _projection(in_channels: int, out_channels: int, norm: str) -> nn.Module:
    """Build a 1x1 convolution with a norm, or an identity if the channels are already right."""
    if in_channels == out_channels:
        return nn.Identity()
    return _convolution(in_channels, out_channels, 1, norm)
