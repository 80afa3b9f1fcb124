"""
``TimmBackbone``: a network of the package timm as the bottom-up network of a neck.

N = images, C = channels of a map, H x W = height and width of the image in pixels.
"""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from ...arguments import FLAG, TEXT, Arguments, Rule, is_integer, one_of
from ...errors import InputError
from .timm_package import check_name, create_network, feature_info, import_timm
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

_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}  # pixels, by detectron2's names
# Names in BACKBONE_REGISTRY of the backbones that read MODEL.TIMM.
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
    A timm network whose maps have the names of detectron2's ResNet: "res2" to "res5".

    Their strides are 4, 8, 16 and 32. The network itself is ``self.net``, with timm's parameter
    names. It may be a convolutional network or one with windows, such as a Swin Transformer.

    Args:
        name (str): Name of a model in ``timm.list_models()``, with or without a tag of pretrained
            weights, such as "resnet18" or "resnet18.a1_in1k". It must have a map for the stride of
            each output.
        out_features (Sequence[str]): Names of the output maps, among "res2", "res3", "res4" and
            "res5".
        freeze_at (int): As MODEL.BACKBONE.FREEZE_AT of detectron2: 0 freezes nothing, 1 the stem,
            and k = 2 to 5 everything that the map of stride 2 ** k is computed from. The stem is
            what the map of stride 2 is computed from. In a network without this map (with a patch
            embedding), it is everything before the first stage. BatchNorm in frozen stages becomes
            FrozenBatchNorm2d.
        norm (str): "" keeps timm's layers. "FrozenBN" converts every BatchNorm2d to detectron2's
            FrozenBatchNorm2d. "SyncBN" converts those that are not frozen to nn.SyncBatchNorm (for
            CUDA only, see ``layers.norms.sync_norms_for_device``).
        pretrained (bool): Load pretrained weights with timm, which may download them.
        in_channels (int): Number of channels of the image.

    Attributes:
        name (str): The argument ``name``.
        pretrained (bool): The argument ``pretrained``.
        pixels (TimmPixels): The pixel format and statistics that timm's weights expect.

    Raises:
        InputError: timm is not installed, or does not have the network or its weights. Or the
            network does not have a map for each stride, accepts only images of one size, or its
            stages cannot be frozen. Or another argument is out of its range.
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
                "False, and set MODEL.WEIGHTS to a file.",
                key="MODEL.TIMM.PRETRAINED",
                value=True,
            )
        self.name = name
        # A first network shows which maps exist, and from which parameters they are computed.
        traced = create_network(timm, name, in_chans=in_channels)
        info = feature_info(traced)
        # If several maps have the same stride, dict() keeps the last, which is the deepest.
        index_of_stride = dict(zip(info.reduction(), info.out_indices, strict=True))
        strides = sorted(_STRIDES[feature] for feature in out_features)
        missing = {f: _STRIDES[f] for f in out_features if _STRIDES[f] not in index_of_stride}
        if missing:
            raise InputError(
                f"MODEL.TIMM.NAME = {name!r} has maps of strides {sorted(index_of_stride)}, but "
                f"MODEL.FPN.IN_FEATURES requires others: {missing}. Choose another model or maps.",
                key="MODEL.FPN.IN_FEATURES",
                value=list(out_features),
            )
        indices = tuple(index_of_stride[stride] for stride in strides)
        self.pretrained = pretrained
        self.net = create_network(
            timm, name, in_chans=in_channels, out_indices=indices, pretrained=pretrained
        )
        self._is_channels_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
        name_of_stride = {stride: feature for feature, stride in _STRIDES.items()}
        self._out_features = [name_of_stride[stride] for stride in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        channels = feature_info(self.net).channels()
        self._out_feature_channels = dict(zip(self._out_features, channels, strict=True))

        self.pixels = pixels_of_weights(timm, name)

        maps = TracedMaps(traced, in_channels, name)
        maps.check_sizes(strides)
        frozen = maps.parameters_to_freeze(freeze_at)
        # A parameter that no map is computed from gets no gradient, but DistributedDataParallel
        # would wait for one.
        fixed = frozen | (maps.all_parameters - maps.parameters_of_maps(strides))
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
        Compute the feature maps of images.

        Args:
            x (Tensor): (N, image channels, H, W) normalized images; H and W must be multiples of
                ``size_divisibility``.

        Returns:
            dict[str, Tensor]: Maps (N, C, H / stride, W / stride) by name, from fine to coarse.
        """
        maps = self.net(x)
        assert len(maps) == len(self._out_features), len(maps)
        if self._is_channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        return dict(zip(self._out_features, maps, strict=True))


def build_fcos_timm_bottom_up(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """
    Build the network MODEL.TIMM, with the maps that MODEL.FPN.IN_FEATURES names.

    The pixel statistics of the config are used. If they are not those that timm's weights expect, a
    warning shows the right values. (``train_net.py`` and ``fcos-d2`` fill them in if a config sets
    none.)

    Args:
        cfg (CfgNode): The config.
        input_shape (ShapeSpec): Channels of the image.

    Raises:
        InputError: See ``TimmBackbone``.
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
    Return what the weights of the config's network expect, or None if it is not one of timm.

    A backbone of a third-party package is assumed to read MODEL.TIMM if the config sets
    MODEL.TIMM.NAME.

    Args:
        cfg (CfgNode): The config.

    Raises:
        InputError: timm is not installed, or it does not have the network.
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
    Warn if timm networks in a third-party backbone expect other pixels than those of the config.

    For the backbones of this package, ``build_fcos_timm_bottom_up`` does this.

    Args:
        backbone (nn.Module): The backbone.
        cfg (CfgNode): The config.
    """
    for statistics in _third_party_statistics(backbone):
        warn_of_other_pixels(
            cfg.MODEL.BACKBONE.NAME,
            pixels_from(statistics),
            configured_pixels(cfg),
            "MODEL.BACKBONE.NAME",
            PIXEL_KEYS,
        )


def _third_party_statistics(module: nn.Module) -> list[dict[str, Any]]:
    """Find timm's pixel statistics of the outermost networks that are not in a TimmBackbone."""
    if isinstance(module, TimmBackbone):
        return []
    statistics = getattr(module, "pretrained_cfg", None)
    if isinstance(statistics, dict) and {"mean", "std"} <= statistics.keys():
        return [statistics]
    return [x for child in module.children() for x in _third_party_statistics(child)]


def _check_out_features(out_features: Sequence[str]) -> None:
    """Check the names of the output maps."""
    unknown = [feature for feature in out_features if feature not in _STRIDES]
    if unknown or not out_features:
        raise InputError(
            f"MODEL.FPN.IN_FEATURES = {list(out_features)} must be some of {list(_STRIDES)}.",
            key="MODEL.FPN.IN_FEATURES",
            value=list(out_features),
        )
