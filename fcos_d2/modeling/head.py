"""
The head network, which all levels share: towers of convolutions and three predictors on them.

N = images, K = classes, C = channels, L = levels, Hi x Wi = cells of level i.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..arguments import FLAG, Arguments, check_registered, integer, number, one_of
from ..errors import InputError
from ..registration import register_in
from .layers.deformable import DeformableConv
from .layers.norms import NORMS
from .predictions import DensePredictions
from .tower import Tower, build_tower

__all__ = ["HEAD_ARGUMENTS", "HEAD_REGISTRY", "FCOSHead", "HeadNetwork", "Scale", "build_head"]

HEAD_REGISTRY = Registry("FCOS_HEAD")
HEAD_REGISTRY.__doc__ = """
Registry of head networks. A registered class is an nn.Module that is called with (cfg, input_shape:
list[ShapeSpec], num_classes: int, predict_quality: bool) and has the interface of ``HeadNetwork``.
"""


class HeadNetwork(Protocol):
    """
    The interface of a head network, which must be an nn.Module.

    Attributes:
        num_classes (int): K, foreground classes only.
    """

    num_classes: int

    def __call__(self, features: Sequence[Tensor]) -> DensePredictions:
        """
        Compute the raw predictions at all locations.

        Args:
            features (list[Tensor]): L maps (N, C, Hi, Wi), from fine to coarse.
        """


def build_head(
    cfg: CfgNode, input_shape: Sequence[ShapeSpec], num_classes: int, predict_quality: bool
) -> nn.Module:
    """
    Build the head network that ``MODEL.FCOS.HEAD`` names.

    Args:
        cfg (CfgNode): The config, which is passed to the head's ``from_config``.
        input_shape (list[ShapeSpec]): Channels and strides of the L levels.
        num_classes (int): K, foreground classes only.
        predict_quality (bool): Whether the head predicts a quality.

    Raises:
        InputError: If no head of this name is registered, or it cannot be built.
    """
    name = cfg.MODEL.FCOS.HEAD
    check_registered("MODEL.FCOS.HEAD", name, HEAD_REGISTRY)
    return HEAD_REGISTRY.get(name)(cfg, input_shape, num_classes, predict_quality)


class Scale(nn.Module):
    """A learnable factor: the s_i by which the shared regression output is scaled on level i."""

    def __init__(self, initial: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([initial]))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply a map of any shape by the factor."""
        return x * self.scale


HEAD_ARGUMENTS = Arguments(
    "MODEL.FCOS",
    elsewhere={"num_classes": ""},  # comes from the model, not from a key
    num_classes=integer(at_least=1),
    num_cls_convs=integer(at_least=0),
    num_box_convs=integer(at_least=0),
    num_share_convs=integer(at_least=0),
    head_channels=integer(at_least=0),
    norm=one_of(*NORMS),
    use_deformable=FLAG,
    use_scale=FLAG,
    centerness_on=one_of("box", "cls"),
    prior_prob=number("between 0 and 1", lambda x: 0 < x < 1),
    # Distances are clamped to e^12 pixels, beyond which there is no gradient (activation "exp"). In
    # strides (activation "relu"), 12 is already too many.
    prior_ltrb=number("from 0 to 12", lambda x: 0 <= x <= 12),
    checkpoint_towers=FLAG,
)


@register_in(HEAD_REGISTRY)
class FCOSHead(nn.Module):
    """
    The head of FCOS, which predicts raw maps for every level.

    No sigmoid or other activation is applied, and nothing is multiplied by strides.

    The names in the state dict are those of the original FCOS: ``cls_tower``, ``bbox_tower``,
    ``cls_logits``, ``bbox_pred``, ``centerness`` and ``scales``; and AdelaiDet's ``share_tower``,
    if there is one.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: Sequence[ShapeSpec],
        num_classes: int,
        num_cls_convs: int = 4,
        num_box_convs: int = 4,
        num_share_convs: int = 0,
        head_channels: int = 0,
        norm: str = "GN",
        use_deformable: bool = False,
        use_scale: bool = True,
        centerness_on: str = "box",
        predict_quality: bool = True,
        prior_prob: float = 0.01,
        prior_ltrb: float = 4.0,
        checkpoint_towers: bool = False,
    ) -> None:
        """
        Build the towers and the predictors.

        Args:
            input_shape (list[ShapeSpec]): Channels and strides of the L levels; all must have the
                same number of channels.
            num_classes (int): K, foreground classes only.
            num_cls_convs (int): Number of 3x3 convolutions of the classification tower.
            num_box_convs (int): Number of 3x3 convolutions of the box tower.
            num_share_convs (int): Number of 3x3 convolutions of a tower before both of them.
            head_channels (int): Number of channels of all towers; 0 uses that of the levels.
            norm (str): Normalization after each convolution of a tower: "GN" (32 groups) is shared
                by the levels; "BN", "SyncBN" and "naiveSyncBN" are separate for each level, see
                ``tower.NormPerLevel``; "" is none.
            use_deformable (bool): Make the last convolution of the classification tower and of the
                box tower deformable, see ``layers.deformable.DeformableConv``.
            use_scale (bool): Multiply the regression output of each level by a learnable factor.
            centerness_on (str): Tower from which the quality is predicted: "box"
                (arXiv:2006.09214) or "cls" (arXiv:1904.01355, Fig. 2).
            predict_quality (bool): Build the branch ``centerness``, which predicts the quality
                (center-ness or IoU).
            prior_prob (float): Initial class probability at every location.
            prior_ltrb (float): Initial raw distances at every location, in the units of
                ``levels.activate_ltrb``; 0 in the papers.
            checkpoint_towers (bool): Use activation checkpointing (arXiv:1604.06174): the backward
                pass computes the maps inside the towers again, instead of keeping them in memory.

        Raises:
            InputError: If a value is out of its range, the levels have different numbers of
                channels, or the towers cannot be built with these values.
        """
        super().__init__()
        channels = {shape.channels for shape in input_shape}
        if len(channels) != 1:
            raise InputError(
                "FCOSHead is shared by all levels, so they must have the same number of channels; "
                f"got {[shape.channels for shape in input_shape]}.",
                key="input_shape",
                value=input_shape,
            )
        HEAD_ARGUMENTS.check(locals())
        if checkpoint_towers and norm not in ("GN", ""):
            raise InputError(
                f"MODEL.FCOS.CHECKPOINT_TOWERS = True runs the towers twice in a step, and the "
                f"statistics of MODEL.FCOS.NORM = {norm!r} would count each map twice: choose "
                "'GN' or ''.",
                key="MODEL.FCOS.NORM",
                value=norm,
            )
        (in_channels,) = channels
        self.in_channels = in_channels
        width = head_channels or in_channels
        _check_towers(
            in_channels, width, num_share_convs, num_cls_convs, num_box_convs, norm, use_deformable
        )
        self.num_classes = num_classes
        self.checkpoint_towers = checkpoint_towers
        self.centerness_on = centerness_on
        num_levels = self.num_levels = len(input_shape)
        self.share_tower = build_tower(in_channels, width, num_share_convs, norm, num_levels)
        if num_share_convs:
            in_channels = width
        self.cls_tower = build_tower(
            in_channels, width, num_cls_convs, norm, num_levels, use_deformable
        )
        self.bbox_tower = build_tower(
            in_channels, width, num_box_convs, norm, num_levels, use_deformable
        )
        self.cls_logits = nn.Conv2d(width, num_classes, kernel_size=3, padding=1)
        self.bbox_pred = nn.Conv2d(width, 4, kernel_size=3, padding=1)
        self.predict_quality = predict_quality
        self.centerness = nn.Conv2d(width, 1, kernel_size=3, padding=1) if predict_quality else None
        self.scales = nn.ModuleList(
            Scale() if use_scale else nn.Identity() for _ in range(num_levels)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, DeformableConv):
                module.zero_offset()
        # All locations start as background, with a low class probability. Otherwise the sum of
        # their losses would dominate the few positives (focal loss, arXiv:1708.02002, Sec. 3.3).
        assert self.cls_logits.bias is not None
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior_prob) / prior_prob))
        # With raw distances of 0, boxes would start empty ("relu") or a pixel from the location
        # ("exp"). Training would spend its first iterations on the size of boxes, and with ReLU
        # half of the distances would have no gradient. The sides of the objects of a level are
        # about 4 strides (with "exp": tens of pixels) from the location.
        assert self.bbox_pred.bias is not None
        nn.init.constant_(self.bbox_pred.bias, prior_ltrb)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, input_shape: Sequence[ShapeSpec], num_classes: int, predict_quality: bool
    ) -> dict[str, Any]:
        """Read the arguments of the constructor from a config."""
        return {
            "input_shape": input_shape,
            "num_classes": num_classes,
            "predict_quality": predict_quality,
            **HEAD_ARGUMENTS.read(cfg),
        }

    def forward(
        self,
        features: Sequence[Tensor],
        levels: Sequence[int] | None = None,
        *,
        with_tower_features: bool = False,
    ) -> DensePredictions:
        """
        Compute the raw predictions of some levels.

        Args:
            features (list[Tensor]): Maps (N, C, Hi, Wi) of these levels.
            levels (list[int] | None): Indices of the levels, 0 is the finest; None means all L
                levels, from fine to coarse.
            with_tower_features (bool): Also return the outputs of the two towers.
        """
        levels = range(self.num_levels) if levels is None else levels
        assert len(features) == len(levels), (len(features), len(levels))
        cls_logits, raw_ltrb, quality_logits = [], [], []
        cls_features, box_features = [], []
        for feature, level in zip(features, levels, strict=True):
            feature = self._run(self.share_tower, feature, level)
            cls_feature = self._run(self.cls_tower, feature, level)
            box_feature = self._run(self.bbox_tower, feature, level)
            cls_features.append(cls_feature)
            box_features.append(box_feature)
            cls_logits.append(self.cls_logits(cls_feature))
            raw_ltrb.append(self.scales[level](self.bbox_pred(box_feature)))
            if self.centerness is not None:
                quality_logits.append(
                    self.centerness(box_feature if self.centerness_on == "box" else cls_feature)
                )
        predictions = DensePredictions(
            cls_logits, raw_ltrb, None if self.centerness is None else quality_logits, extra={}
        )
        if with_tower_features:
            return predictions._replace(cls_features=cls_features, box_features=box_features)
        return predictions

    def _run(self, tower: Tower, feature: Tensor, level: int) -> Tensor:
        """Run a tower on the map (N, C, Hi, Wi) of a level, with checkpointing if it is enabled."""
        if self.checkpoint_towers and torch.is_grad_enabled():
            # A tower uses no random numbers, so their state does not have to be restored.
            return checkpoint(tower, feature, level, use_reentrant=False, preserve_rng_state=False)
        return tower(feature, level)


def _check_towers(
    in_channels: int,
    width: int,
    num_share_convs: int,
    num_cls_convs: int,
    num_box_convs: int,
    norm: str,
    use_deformable: bool,
) -> None:
    """Check that towers of ``width`` channels can be built; see ``FCOSHead`` for the arguments."""
    if norm == "GN" and width % 32:
        raise InputError(
            f"MODEL.FCOS.NORM = 'GN' normalizes 32 groups, but the towers have {width} channels: "
            "choose MODEL.FCOS.HEAD_CHANNELS (or, where it is 0, the OUT_CHANNELS of MODEL.FPN or "
            "MODEL.BIFPN) as a multiple of 32, or another NORM.",
            key="MODEL.FCOS.NORM",
            value=norm,
        )
    convs = f"NUM_CLS_CONVS = {num_cls_convs}, NUM_BOX_CONVS = {num_box_convs}"
    is_one_empty = not num_cls_convs or not num_box_convs
    if width != in_channels and is_one_empty and not num_share_convs:
        raise InputError(
            f"MODEL.FCOS.HEAD_CHANNELS = {width} differs from the {in_channels} channels of the "
            f"levels, but a tower has no convolution that could change their number: {convs}. Set "
            "HEAD_CHANNELS to 0, or give both towers a convolution.",
            key="MODEL.FCOS.HEAD_CHANNELS",
            value=width,
        )
    if use_deformable and is_one_empty:
        raise InputError(
            "MODEL.FCOS.USE_DEFORMABLE makes the last convolution of the classification tower and "
            f"of the box tower deformable, but a tower has no convolution: {convs}.",
            key="MODEL.FCOS.USE_DEFORMABLE",
            value=use_deformable,
        )
