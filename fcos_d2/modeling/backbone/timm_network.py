"""Any convolutional or windowed network of the package timm as the bottom-up of the pyramid."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...arguments import FLAG, TEXT, Arguments, Rule, is_integer, one_of
from ...errors import InputError
from .timm_package import check_name, create_network, import_timm
from .timm_pixels import (
    PIXEL_KEYS,
    TimmPixels,
    configured_pixels,
    pixels_from,
    pixels_of_network,
    pixels_of_weights,
    warn_of_other_pixels,
)
from .traced_maps import TracedMaps, freeze_batch_norms

__all__ = [
    "TIMM_ARGUMENTS",
    "TimmBackbone",
    "build_fcos_timm_bottom_up",
    "pixels_of_timm",
    "warn_of_timm_networks",
]

_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}  # pixels, of detectron2's names
# Names in BACKBONE_REGISTRY of what reads MODEL.TIMM.
_BUILDERS = ("build_fcos_timm_fpn_backbone", "build_fcos_timm_bifpn_backbone")

TIMM_ARGUMENTS = Arguments(
    "MODEL.TIMM",
    elsewhere={"freeze_at": "MODEL.BACKBONE"},
    name=TEXT,
    norm=one_of("", "FrozenBN", "SyncBN"),
    pretrained=FLAG,
    freeze_at=Rule(
        "an integer from 0 to 5, the last stage (stride 32)",
        lambda value: is_integer(value) and 0 <= value <= 5,
    ),
)


class TimmBackbone(Backbone):
    """
    Maps of a timm model with the names of detectron2's ResNet: "res2" (stride 4) to "res5" (32).

    The network itself is ``self.net``, with timm's own parameter names.

    Args:
        name (str): model of ``timm.list_models()``, with a tag of pretrained weights or without:
            "resnet18", "resnet18.a1_in1k". It must have a map of each stride asked for.
        out_features (Sequence[str]): of "res2", "res3", "res4", "res5".
        freeze_at (int): as MODEL.BACKBONE.FREEZE_AT of detectron2. 0: nothing is frozen; 1: the
            stem; k = 2 to 5: all that the map of stride 2 ** k is made from. The stem is what the
            map of stride 2 is made from, or, in a network without one (patch embedding), what comes
            before the first stage. BatchNorm in frozen stages becomes FrozenBatchNorm2d.
        norm (str): "" keeps timm's layers; "FrozenBN" turns every BatchNorm2d into detectron2's
            FrozenBatchNorm2d; "SyncBN" those that are not frozen into nn.SyncBatchNorm (CUDA only,
            see ``layers.norms.sync_norms_for_device``).
        pretrained (bool): load weights with timm's loader, which may download them.
        in_channels (int): channels of the image.

    Attributes:
        name (str): as given.
        pretrained (bool): as given.
        pixels (TimmPixels): what timm's weights for the model were trained with.

    Raises:
        InputError: timm is not installed; a name that timm does not know, a stride that the model
            does not have, a model for images of one size only or whose maps are no pyramid, weights
            that timm does not have, stages that cannot be frozen, or another argument out of its
            range.
    """

    def __init__(
        self,
        *,
        name: str,
        out_features: Sequence[str] = ("res3", "res4", "res5"),
        freeze_at: int = 0,
        norm: str = "",
        pretrained: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        TIMM_ARGUMENTS.check(locals())
        _check_out_features(out_features)
        timm = import_timm()
        check_name(timm, name)
        if pretrained and not timm.get_pretrained_cfg(name).has_weights:
            raise InputError(
                f"MODEL.TIMM.PRETRAINED = True, but timm has no weights for {name!r}. Set it to "
                "False and give a file in MODEL.WEIGHTS."
            )
        self.name = name
        # A first network tells which maps there are, and is traced for what they are made from.
        traced = create_network(timm, name, in_chans=in_channels)
        info = traced.feature_info
        # Of several maps of one stride, the deepest: the last.
        index_of_stride = dict(zip(info.reduction(), info.out_indices, strict=True))
        wanted = sorted(_STRIDES[feature] for feature in out_features)
        missing = {f: _STRIDES[f] for f in out_features if _STRIDES[f] not in index_of_stride}
        if missing:
            raise InputError(
                f"MODEL.TIMM.NAME = {name!r} has maps of strides {sorted(index_of_stride)}, but "
                f"MODEL.FPN.IN_FEATURES asks for others: {missing}. Choose another model or maps."
            )
        indices = tuple(index_of_stride[stride] for stride in wanted)
        self.pretrained = pretrained
        self.net = create_network(
            timm, name, in_chans=in_channels, out_indices=indices, pretrained=pretrained
        )
        self._is_channels_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
        name_of_stride = {stride: feature for feature, stride in _STRIDES.items()}
        self._out_features = [name_of_stride[stride] for stride in wanted]
        self._out_feature_strides = dict(zip(self._out_features, wanted, strict=True))
        channels = self.net.feature_info.channels()
        self._out_feature_channels = dict(zip(self._out_features, channels, strict=True))

        self.pixels = pixels_of_weights(timm, name)

        maps = TracedMaps(traced, in_channels, name)
        maps.check_sizes(wanted)
        frozen = maps.parameters_to_freeze(freeze_at)
        # A parameter that makes none of the maps gets no gradient, which DDP would wait for.
        fixed = frozen | (maps.all_parameters - maps.parameters_behind(wanted))
        for parameter_name, parameter in self.net.named_parameters():
            parameter.requires_grad &= parameter_name not in fixed
        freeze_batch_norms(self.net, None if norm == "FrozenBN" else frozen)
        if norm == "SyncBN":
            self.net = timm.layers.convert_sync_batchnorm(self.net)

    @property
    def size_divisibility(self) -> int:
        """Height and width of the images must be multiples of this, in pixels."""
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x (Tensor): (N, C, H, W) normalised images; H and W multiples of ``size_divisibility``.

        Returns:
            dict[str, Tensor]: name -> (N, channels, H / stride, W / stride), from fine to coarse.
        """
        maps = self.net(x)
        assert len(maps) == len(self._out_features), len(maps)
        if self._is_channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        return dict(zip(self._out_features, maps, strict=True))


def build_fcos_timm_bottom_up(cfg: Any, input_shape: ShapeSpec) -> TimmBackbone:
    """
    The network MODEL.TIMM, with the maps that MODEL.FPN.IN_FEATURES names.

    Pixel statistics are the config's: when they are not those that timm's weights want, a warning
    says what to write. (``train_net.py`` and ``fcos-d2`` fill them in where a config sets none.)

    Raises:
        InputError: as ``TimmBackbone``.
    """
    bottom_up = TimmBackbone(
        out_features=cfg.MODEL.FPN.IN_FEATURES,
        in_channels=input_shape.channels,
        **TIMM_ARGUMENTS.read(cfg),
    )
    configured = configured_pixels(cfg)
    warn_of_other_pixels(
        bottom_up.name, bottom_up.pixels, configured, "MODEL.TIMM.NAME", PIXEL_KEYS
    )
    return bottom_up


def pixels_of_timm(cfg: CfgNode) -> TimmPixels | None:
    """
    Get what the weights of the config's network want, if that is one of timm; None otherwise.

    A builder of another package is taken to read MODEL.TIMM if the config sets MODEL.TIMM.NAME.

    Raises:
        InputError: timm is not installed, or does not know the network.
    """
    name = cfg.MODEL.BACKBONE.NAME
    if name in _BUILDERS:
        return pixels_of_network(cfg.MODEL.TIMM.NAME)
    package = BACKBONE_REGISTRY.get(name).__module__.partition(".")[0]
    if package in ("detectron2", __name__.partition(".")[0]) or not cfg.MODEL.TIMM.NAME:
        return None
    return pixels_of_network(cfg.MODEL.TIMM.NAME)


def warn_of_timm_networks(backbone: nn.Module, cfg: CfgNode) -> None:
    """
    Say so if a network of timm in a backbone of another package wants other pixels than the config
    gives. (``build_fcos_timm_bottom_up`` does it for ours.)
    """
    for net in _networks_of_others(backbone):
        warn_of_other_pixels(
            cfg.MODEL.BACKBONE.NAME,
            pixels_from(net.pretrained_cfg),
            configured_pixels(cfg),
            "MODEL.BACKBONE.NAME",
            PIXEL_KEYS,
        )


def _networks_of_others(module: Any) -> list[Any]:
    """Find the outermost networks that have timm's statistics of pixels, but for TimmBackbones."""
    if isinstance(module, TimmBackbone):
        return []
    statistics = getattr(module, "pretrained_cfg", None)
    if isinstance(statistics, dict) and {"mean", "std"} <= statistics.keys():
        return [module]
    return [net for child in module.children() for net in _networks_of_others(child)]


def _check_out_features(out_features: Sequence[str]) -> None:
    unknown = [feature for feature in out_features if feature not in _STRIDES]
    if unknown or not out_features:
        raise InputError(
            f"MODEL.FPN.IN_FEATURES = {list(out_features)} must be some of {list(_STRIDES)}."
        )
