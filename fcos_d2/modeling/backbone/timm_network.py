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
    PixelStatistics,
    configured_pixel_statistics,
    convert_timm_statistics,
    pixel_statistics_of_network,
    pixel_statistics_of_weights,
    warn_if_statistics_differ,
)
from .traced_maps import TracedMaps, freeze_batch_norms

__all__ = [
    "TIMM_ARGUMENTS",
    "TimmBackbone",
    "build_fcos_timm_bottom_up",
    "expected_pixel_statistics",
    "warn_of_timm_pixel_statistics",
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
        "an integer from 0 (nothing) to 5 (all stages)",
        lambda value: is_integer(value) and 0 <= value <= 5,
    ),
)


class TimmBackbone(Backbone):
    """
    A timm network whose maps have the names of detectron2's ResNet: "res2" to "res5".

    The strides of these maps are 4, 8, 16 and 32. The network itself is ``self.net``, with timm's
    parameter names. It may be a convolutional network or a transformer with stages, such as Swin.

    Args:
        name (str): Name of a model in ``timm.list_models()``, with or without a tag of pretrained
            weights, such as "resnet18" or "resnet18.a1_in1k". The network must have a map for the
            stride of each output.
        out_features (Sequence[str]): Names of the output maps, among "res2", "res3", "res4" and
            "res5".
        freeze_at (int): Number of stages to freeze, with the meaning of MODEL.BACKBONE.FREEZE_AT in
            detectron2. In frozen stages, BatchNorm becomes FrozenBatchNorm2d.

            - 0 freezes nothing.
            - 1 freezes the stem. These are the layers up to the map of stride 2. A network with a
              patch embedding does not have this map; its stem is everything before its first stage.
            - k = 2 to 5 freezes all layers up to the map of stride 2 ** k.
        norm (str): "" keeps timm's layers. "FrozenBN" converts every BatchNorm2d to detectron2's
            FrozenBatchNorm2d. "SyncBN" converts those that are not frozen to nn.SyncBatchNorm (for
            CUDA only, see ``layers.norms.sync_norms_for_device``).
        pretrained (bool): Load pretrained weights with timm, which may download them.
        in_channels (int): Number of channels of the image.

    Attributes:
        name (str): The argument ``name``.
        pretrained (bool): The argument ``pretrained``.
        pixel_statistics (PixelStatistics): The pixel format and statistics that timm's weights
            expect.

    Raises:
        InputError: If one of these conditions holds:

            - timm is not installed, or it does not have the network or its weights.
            - The network does not have a map for each stride.
            - The network accepts only images of one size.
            - The stages of the network cannot be frozen.
            - Another argument is out of its range.
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
        # The network is created twice. The first copy, with all maps, is only used to find out
        # which maps there are, and from which parameters each map is computed.
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

        self.pixel_statistics = pixel_statistics_of_weights(timm, name)

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
        """The number of pixels that must divide the height and the width of images."""
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

    The model uses the pixel statistics of the config. If timm's weights expect other statistics, a
    warning shows the right values. (If a config sets no pixel statistics, ``train_net.py`` and
    ``fcos-d2`` set the right values.)

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
    configured = configured_pixel_statistics(cfg)
    warn_if_statistics_differ(
        bottom_up.name, bottom_up.pixel_statistics, configured, "MODEL.TIMM.NAME", PIXEL_KEYS
    )
    return bottom_up


def expected_pixel_statistics(cfg: CfgNode) -> PixelStatistics | None:
    """
    Return the pixel format, mean and standard deviation that the weights of a timm network expect.

    A backbone of a third-party package is assumed to read MODEL.TIMM if the config sets
    MODEL.TIMM.NAME.

    Args:
        cfg (CfgNode): The config.

    Returns:
        PixelStatistics | None: The statistics; None if the backbone is not a timm network.

    Raises:
        InputError: If timm is not installed, or it does not have the network.
    """
    name = cfg.MODEL.BACKBONE.NAME
    if name in _BUILDERS:
        return pixel_statistics_of_network(cfg.MODEL.TIMM.NAME)
    package = BACKBONE_REGISTRY.get(name).__module__.partition(".")[0]
    if package in ("detectron2", __name__.partition(".")[0]) or not cfg.MODEL.TIMM.NAME:
        return None
    return pixel_statistics_of_network(cfg.MODEL.TIMM.NAME)


def warn_of_timm_pixel_statistics(backbone: nn.Module, cfg: CfgNode) -> None:
    """
    Warn if timm networks in a third-party backbone expect other pixel statistics than the config's.

    For the backbones of this package, ``build_fcos_timm_bottom_up`` logs this warning.

    Args:
        backbone (nn.Module): The backbone.
        cfg (CfgNode): The config.
    """
    for statistics in _find_third_party_statistics(backbone):
        warn_if_statistics_differ(
            cfg.MODEL.BACKBONE.NAME,
            convert_timm_statistics(statistics),
            configured_pixel_statistics(cfg),
            "MODEL.BACKBONE.NAME",
            PIXEL_KEYS,
        )


def _find_third_party_statistics(module: nn.Module) -> list[dict[str, Any]]:
    """
    Find the pixel statistics that timm has stored in the networks of a third-party backbone.

    Networks in a TimmBackbone, and networks inside another timm network, are skipped.
    """
    if isinstance(module, TimmBackbone):
        return []
    statistics = getattr(module, "pretrained_cfg", None)
    if isinstance(statistics, dict) and {"mean", "std"} <= statistics.keys():
        return [statistics]
    return [x for child in module.children() for x in _find_third_party_statistics(child)]


def _check_out_features(out_features: Sequence[str]) -> None:
    """Check the names of the output maps."""
    unknown = [feature for feature in out_features if feature not in _STRIDES]
    if unknown or not out_features:
        raise InputError(
            f"MODEL.FPN.IN_FEATURES = {list(out_features)} must be a list of one or more names "
            f"among {list(_STRIDES)}.",
            key="MODEL.FPN.IN_FEATURES",
            value=list(out_features),
        )
