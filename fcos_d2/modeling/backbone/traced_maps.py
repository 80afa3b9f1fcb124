"""What the maps of a network are made from, and freezing parts of it."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from ...errors import InputError

__all__ = ["TracedMaps", "freeze_batch_norms"]

_IMAGE_SIZE = 256  # pixels; a multiple of every stride


class TracedMaps:
    """
    What the maps of a timm network are made from, found without computing them.

    Of several maps of one stride, the last counts.

    Args:
        net (nn.Module): made with ``features_only=True``. It is of no use for anything else
            afterwards: its tensors are moved to the device "meta".
        in_channels (int): channels of the image.
        name (str): what errors call the network.

    Attributes:
        all_parameters (set[str]): names of the parameters of the network.
    """

    def __init__(self, net: nn.Module, in_channels: int, name: str) -> None:
        self._name = name
        self._net = net.to("meta").eval()
        self.all_parameters = {name for name, _ in net.named_parameters()}
        image = torch.zeros(1, in_channels, _IMAGE_SIZE, _IMAGE_SIZE, device="meta")
        with torch.enable_grad():
            maps = self._net(image)
        info: Any = net.feature_info
        self._maps = dict(zip(info.reduction(), maps, strict=True))
        self._stages = dict(zip(info.reduction(), info.module_name(), strict=True))

    def check_sizes(self, strides: Sequence[int]) -> None:
        """
        Raises:
            InputError: the size of a map is not that of the image divided by the stride.
        """
        for stride in strides:
            size = _IMAGE_SIZE // stride
            shape = tuple(self._maps[stride].shape)
            # (1, C, H, W) or (1, H, W, C)
            if (size, size) not in (shape[2:], shape[1:3]):
                raise InputError(
                    f"MODEL.TIMM.NAME = {self._name!r} cannot make a pyramid: of an image of "
                    f"{_IMAGE_SIZE} x {_IMAGE_SIZE} pixels, its map of stride {stride} is {shape} "
                    f"and not {size} x {size}. Choose another model."
                )

    def parameters_behind(self, strides: Sequence[int]) -> set[str]:
        """Names of the parameters that the maps of these strides are made from."""
        names, parameters = zip(*self._net.named_parameters(), strict=True)
        gradients = torch.autograd.grad(
            [self._maps[stride].sum() for stride in strides],
            parameters,
            allow_unused=True,
            retain_graph=True,
        )
        return {name for name, g in zip(names, gradients, strict=True) if g is not None}

    def parameters_to_freeze(self, freeze_at: int) -> set[str]:
        """Names of the parameters of the stem (1) and the stages up to stride 2 ** freeze_at."""
        if freeze_at == 0:
            return set()
        strides = sorted(stride for stride in self._maps if stride > 1)
        stride = 2**freeze_at
        if freeze_at == 1 and stride not in strides:
            return self._parameters_before_stage(strides[0])
        if stride not in strides:
            raise InputError(
                f"MODEL.BACKBONE.FREEZE_AT = {freeze_at} freezes up to the map of stride {stride}, "
                f"but {self._name!r} has maps of strides {strides}. Choose another number."
            )
        frozen = self.parameters_behind([s for s in strides if s <= stride])
        coarser = [s for s in strides if s > stride]
        if coarser and not frozen <= self.parameters_behind(coarser[:1]):
            # HRNet: its fine maps see the coarse ones, so that freezing one would freeze all.
            raise InputError(
                f"MODEL.BACKBONE.FREEZE_AT = {freeze_at} is impossible: {self._name!r} makes "
                f"its map of stride {coarser[0]} without that of stride {stride}. Choose 0 "
                "(nothing frozen) or 1 (the stem)."
            )
        return frozen

    def _parameters_before_stage(self, stride: int) -> set[str]:
        module = self._stages[stride]
        own = (f"{module}.", f"{module.replace('.', '_', 1)}.")  # timm flattens "stages.0"
        return {n for n in self.parameters_behind([stride]) if not n.startswith(own)}


def freeze_batch_norms(net: nn.Module, parameter_names: set[str] | None) -> None:
    """
    Convert BatchNorm2d to FrozenBatchNorm2d, in place, keeping what timm's layers do behind it.

    Args:
        net (nn.Module): its statistics and weights are kept, and so are their names.
        parameter_names (set[str] | None): only norms whose weight is among them; None: all.
    """
    for path, norm in list(net.named_modules()):
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        if parameter_names is not None and f"{path}.weight" not in parameter_names:
            continue
        if hasattr(norm, "act"):
            frozen = _FrozenBatchNormAct2d.convert_frozen_batchnorm(norm)
            frozen.drop, frozen.act = norm.drop, norm.act
        else:
            frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
        parent, _, leaf = path.rpartition(".")
        net.get_submodule(parent).add_module(leaf, frozen)


class _FrozenBatchNormAct2d(FrozenBatchNorm2d):
    """detectron2's FrozenBatchNorm2d with what timm's BatchNormAct2d does after the norm."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))
