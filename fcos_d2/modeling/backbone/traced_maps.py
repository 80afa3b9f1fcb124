"""The parameters that each map of a timm network is computed from, and freezing of batch norms."""

from collections.abc import Sequence

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from ...errors import InputError
from .timm_package import feature_info

__all__ = ["TracedMaps", "freeze_batch_norms"]

_IMAGE_SIZE = 256  # pixels; a multiple of every stride


class TracedMaps:
    """
    The maps of a timm network, and the parameters that each map is computed from.

    These parameters are found from gradients on the device "meta", which has shapes but no values.
    If several maps have the same stride, the last one is used.

    Args:
        net (nn.Module): A network that was created with ``features_only=True``. Its tensors are
            moved to the device "meta", so it cannot be used for anything else.
        in_channels (int): Number of channels of the image.
        name (str): Name of the network for error messages.

    Attributes:
        all_parameters (set[str]): Names of all parameters of the network.
    """

    def __init__(self, net: nn.Module, in_channels: int, name: str) -> None:
        self._name = name
        self._net = net.to("meta").eval()
        self.all_parameters = {name for name, _ in net.named_parameters()}
        image = torch.zeros(1, in_channels, _IMAGE_SIZE, _IMAGE_SIZE, device="meta")
        with torch.enable_grad():
            maps = self._net(image)
        info = feature_info(net)
        self._maps = dict(zip(info.reduction(), maps, strict=True))
        self._stages = dict(zip(info.reduction(), info.module_name(), strict=True))

    def check_sizes(self, strides: Sequence[int]) -> None:
        """
        Check that maps have the size of the image divided by the stride.

        Args:
            strides (Sequence[int]): Strides of the maps to check.

        Raises:
            InputError: If a map has another size.
        """
        for stride in strides:
            size = _IMAGE_SIZE // stride
            shape = tuple(self._maps[stride].shape)
            # (1, C, H, W) or (1, H, W, C)
            if (size, size) not in (shape[2:], shape[1:3]):
                raise InputError(
                    f"MODEL.TIMM.NAME = {self._name!r} cannot be used for a pyramid: for an image "
                    f"of {_IMAGE_SIZE} x {_IMAGE_SIZE} pixels, its map of stride {stride} has the "
                    f"shape {shape} and not {size} x {size} cells. Choose another model.",
                    key="MODEL.TIMM.NAME",
                    value=self._name,
                )

    def parameters_of_maps(self, strides: Sequence[int]) -> set[str]:
        """Return the names of the parameters that the maps of these strides are computed from."""
        names, parameters = zip(*self._net.named_parameters(), strict=True)
        gradients = torch.autograd.grad(
            [self._maps[stride].sum() for stride in strides],
            parameters,
            allow_unused=True,
            retain_graph=True,
        )
        return {name for name, g in zip(names, gradients, strict=True) if g is not None}

    def parameters_to_freeze(self, freeze_at: int) -> set[str]:
        """
        Return the names of the parameters to freeze.

        Args:
            freeze_at (int): See ``timm_network.TimmBackbone``.

        Raises:
            InputError: If there is no map of stride 2**freeze_at, or if the next coarser map does
                not use all parameters of the maps up to this stride.
        """
        if freeze_at == 0:
            return set()
        strides = sorted(stride for stride in self._maps if stride > 1)
        stride = 2**freeze_at
        if freeze_at == 1 and stride not in strides:
            return self._parameters_before_stage(strides[0])
        if stride not in strides:
            raise InputError(
                f"MODEL.BACKBONE.FREEZE_AT = {freeze_at} freezes up to the map of stride {stride}, "
                f"but {self._name!r} has maps of strides {strides}. Choose another number.",
                key="MODEL.BACKBONE.FREEZE_AT",
                value=freeze_at,
            )
        frozen = self.parameters_of_maps([s for s in strides if s <= stride])
        coarser = [s for s in strides if s > stride]
        if coarser and not frozen <= self.parameters_of_maps(coarser[:1]):
            # An example is HRNet. It computes fine maps from coarse ones, so freezing a fine map
            # would freeze everything.
            raise InputError(
                f"MODEL.BACKBONE.FREEZE_AT = {freeze_at} is impossible: {self._name!r} does not "
                f"compute its map of stride {coarser[0]} from that of stride {stride}. Choose 0 "
                "(nothing frozen) or 1 (the stem).",
                key="MODEL.BACKBONE.FREEZE_AT",
                value=freeze_at,
            )
        return frozen

    def _parameters_before_stage(self, stride: int) -> set[str]:
        """Return the names of the parameters before the stage that outputs the map of a stride."""
        module = self._stages[stride]
        # timm may rename a module "stages.0" to "stages_0".
        prefixes = (f"{module}.", f"{module.replace('.', '_', 1)}.")
        return {x for x in self.parameters_of_maps([stride]) if not x.startswith(prefixes)}


def freeze_batch_norms(net: nn.Module, parameter_names: set[str] | None) -> None:
    """
    Convert BatchNorm2d layers of a network to FrozenBatchNorm2d in place.

    Statistics, weights and their names are kept, and also the dropout and activation after the norm
    in timm's BatchNormAct2d.

    Args:
        net (nn.Module): The network.
        parameter_names (set[str] | None): Convert only norms whose weight is in this set; None
            converts all.
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
    """A FrozenBatchNorm2d followed by dropout and activation, as in timm's BatchNormAct2d."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a map (N, C, Hi, Wi), and apply dropout and activation."""
        return self.act(self.drop(super().forward(x)))
