"""
BiFPN, the neck of EfficientDet (arXiv:1911.09070, Sec. 3), in the form that AdelaiDet gives FCOS.

Both fuse weighted maps from coarse to fine and back, again and again. AdelaiDet's convolutions are
plain and not separable, so there are more parameters, in kernels that GPUs are better at.

N = images, L = levels, C = channels of all levels, Hi x Wi = cells of level i.
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
    "fuse",
    "resize",
]


def fuse(maps: Sequence[Tensor], weights: Tensor, eps: float = 1e-4) -> Tensor:
    """
    Fast normalised fusion: the weighted mean of maps (arXiv:1911.09070, Sec. 3.3).

    Args:
        maps (list[Tensor]): n maps of one shape.
        weights (Tensor): (n,), of which the negative ones count as 0.
        eps (float): is added to the sum of the weights.

    Returns:
        Tensor: of the maps' shape.
    """
    weights = weights.relu()
    weights = weights / (weights.sum() + eps)
    # Numbers, not a tensor of n: those leave the type of the maps as autocast has chosen it.
    return reduce(torch.add, (x * w for x, w in zip(maps, weights.unbind(), strict=True)))


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """
    A map of a neighbouring level at the size of this one: the nearest cell, or the maximum of 3 x 3
    cells, 2 apart.

    Args:
        x (Tensor): (N, C, H, W).
        size (tuple[int, int]): height and width in cells, at most twice as large, or half as large
            (rounded up) where they are smaller.

    Returns:
        Tensor: (N, C, *size).
    """
    if x.shape[2] > size[0] or x.shape[3] > size[1]:
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        assert x.shape[2:] == size, (x.shape, size)
        return x
    return x if x.shape[2:] == size else F.interpolate(x, size=size, mode="nearest")


class _Node(nn.Module):
    """One map from several: each to this size; fuse; SiLU; convolution 3x3."""

    def __init__(self, num_maps: int, channels: int, norm: str) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(num_maps))
        self.conv = _convolution(channels, channels, 3, norm)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        return self.conv(F.silu(fuse([resize(x, size) for x in maps], self.weights)))


class BiFPNLayer(nn.Module):
    """
    Once from coarse to fine and back (arXiv:1911.09070, Fig. 3):

    - from coarse to fine, every level but the coarsest fuses itself with the result above it;
    - from fine to coarse, every level but the finest fuses itself, its first result (of which the
      coarsest has none) and the result below it.

    Args:
        in_channels (list[int]): those of the L levels, from fine to coarse, at least two. Where
            they are not C, a 1x1 convolution of the level makes them so.
        out_channels (int): C.
        norm (str): see ``layers.norms.build_norm``.
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
        Args:
            maps (list[Tensor]): L maps (N, Ci, Hi, Wi), from fine to coarse; each has half the
                cells of the one before, rounded up.

        Returns:
            list[Tensor]: L maps (N, C, Hi, Wi).
        """
        maps = [project(x) for project, x in zip(self.projections, maps, strict=True)]
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        coarsest = len(maps) - 1
        first = list(maps)
        for level in reversed(range(coarsest)):
            first[level] = self.top_down[level]([maps[level], first[level + 1]], sizes[level])
        results = first[:1]
        for level in range(1, coarsest + 1):
            inputs = [maps[level], results[-1]]
            if level < coarsest:
                inputs.insert(1, first[level])
            results.append(self.bottom_up[level - 1](inputs, sizes[level]))
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
    BiFPN on the maps of a bottom-up network and on more levels, each a maximum over the one before.

    Args:
        bottom_up (Backbone): gives the maps; it keeps this name in the state dict, so that weights
            of the network are found as under detectron2's FPN.
        in_features (list[str]): the maps to use, from fine to coarse.
        top_levels (int): 0; 1: P6; 2: P6 and P7 (for maps up to stride 32). P6 is the last of
            the maps, by a 1x1 convolution where it has other channels, and then pooled.
        num_repeats (int): ``BiFPNLayer`` one after the other, each with weights of its own.
        out_channels (int): C.
        norm (str): behind each convolution; see ``layers.norms.build_norm``.

    Raises:
        InputError: a value out of its range, maps that do not fit together, or one level alone.
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
                "MODEL.BIFPN.NORM = 'GN' normalises 32 groups: MODEL.BIFPN.OUT_CHANNELS = "
                f"{out_channels} must be a multiple of 32, or choose another NORM."
            )
        if len(in_features) + top_levels < 2:
            raise InputError(
                f"MODEL.FPN.IN_FEATURES = {list(in_features)} and MODEL.FCOS.TOP_LEVELS = "
                f"{top_levels} make one level, and a BiFPN fuses at least two."
            )
        shapes = bottom_up.output_shape()
        channels = [shapes[name].channels for name in in_features]
        strides = [shapes[name].stride for name in in_features]
        # As for detectron2's FPN, but a network may want more. (detectron2's Swin cannot tell.)
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
        """Height and width of the images must be multiples of this, in pixels."""
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Those of the bottom-up network."""
        return self.bottom_up.padding_constraints

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x (Tensor): (N, channels, H, W) normalised images; H and W multiples of
                ``size_divisibility``.

        Returns:
            dict[str, Tensor]: "p3", ... -> (N, C, H / stride, W / stride) from fine to coarse,
            rounded up where that is no integer.
        """
        bottom_up_maps = self.bottom_up(x)
        maps = [bottom_up_maps[name] for name in self.in_features]
        top = self.top_projection(maps[-1])
        for _ in range(self.top_levels):
            top = F.max_pool2d(top, kernel_size=3, stride=2, padding=1)
            maps.append(top)
        for layer in self.layers:
            maps = layer(maps)
        return dict(zip(self._out_features, maps, strict=True))


def build_fcos_bifpn(cfg: CfgNode, bottom_up: Backbone) -> BiFPN:
    """
    Build a BiFPN (MODEL.BIFPN) on a bottom-up network, with MODEL.FCOS.TOP_LEVELS more levels.

    Raises:
        InputError: see ``BiFPN``.
    """
    return BiFPN(
        bottom_up=bottom_up, in_features=cfg.MODEL.FPN.IN_FEATURES, **BIFPN_ARGUMENTS.read(cfg)
    )


def _convolution(in_channels: int, out_channels: int, size: int, norm: str) -> nn.Module:
    layer = build_norm(norm, out_channels)
    conv = Conv2d(in_channels, out_channels, size, padding=size // 2, bias=not norm, norm=layer)
    weight_init.c2_xavier_fill(conv)
    return conv


def _projection(in_channels: int, out_channels: int, norm: str) -> nn.Module:
    if in_channels == out_channels:
        return nn.Identity()
    return _convolution(in_channels, out_channels, 1, norm)
