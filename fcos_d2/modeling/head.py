"""
The head that all levels share: two towers of convolutions, three predictors, one scale a level.

N = images, K = classes, L = levels, Hi x Wi = cells of level i.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from ..config_rules import check_value
from ..errors import InputError

__all__ = ["FCOSHead", "Scale"]


class Scale(nn.Module):
    """One learnable factor: the s_i with which a level stretches the shared regression output."""

    def __init__(self, initial: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([initial]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class _GroupNorm(nn.GroupNorm):
    """
    32 groups, on maps of any size. With a single channel a group PyTorch's own refuses maps of one
    cell, in inference too, for they have no variance; normalised, they are 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class FCOSHead(nn.Module):
    """
    Raw maps of every level: no sigmoid, no activation, no stride.

    State-dict names are the original FCOS's: ``cls_tower``, ``bbox_tower``, ``cls_logits``,
    ``bbox_pred``, ``centerness``, ``scales``.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: Sequence[ShapeSpec],
        num_classes: int,
        num_cls_convs: int = 4,
        num_box_convs: int = 4,
        norm: str = "GN",
        use_scale: bool = True,
        centerness_on: str = "box",
        predict_quality: bool = True,
        prior_prob: float = 0.01,
    ) -> None:
        """
        Args:
            input_shape (list[ShapeSpec]): the L levels; all must have the same channels.
            num_classes (int): K, foreground classes only.
            num_cls_convs, num_box_convs (int): 3x3 convolutions of the two towers.
            norm (str): "GN" (32 groups) or "" for none.
            use_scale (bool): a learnable factor for the regression output of each level.
            centerness_on (str): tower that centre-ness is predicted from: "box" (arXiv:2006.09214)
                or "cls" (arXiv:1904.01355, Fig. 2).
            predict_quality (bool): False: without the branch ``centerness``, whatever quality it
                is taught.
            prior_prob (float): class probability that every location starts with.

        Raises:
            InputError: a value out of its range, or levels of unequal channels.
        """
        super().__init__()
        channels = {shape.channels for shape in input_shape}
        if len(channels) != 1:
            raise InputError(
                "FCOSHead is shared by all levels, so they must have the same number of channels; "
                f"got {[shape.channels for shape in input_shape]}."
            )
        for key, value in (
            ("NUM_CLASSES", num_classes),
            ("NUM_CLS_CONVS", num_cls_convs),
            ("NUM_BOX_CONVS", num_box_convs),
            ("NORM", norm),
            ("USE_SCALE", use_scale),
            ("CENTERNESS_ON", centerness_on),
            ("PRIOR_PROB", prior_prob),
        ):
            check_value(f"MODEL.FCOS.{key}", value)
        (width,) = channels
        if norm == "GN" and width % 32:
            raise InputError(
                f"MODEL.FCOS.NORM = 'GN' normalises 32 groups, but the levels have {width} "
                "channels: choose MODEL.FPN.OUT_CHANNELS as a multiple of 32, or NORM = ''."
            )
        self.num_classes = num_classes
        self.centerness_on = centerness_on
        self.cls_tower = _tower(width, num_cls_convs, norm)
        self.bbox_tower = _tower(width, num_box_convs, norm)
        self.cls_logits = nn.Conv2d(width, num_classes, kernel_size=3, padding=1)
        self.bbox_pred = nn.Conv2d(width, 4, kernel_size=3, padding=1)
        self.predict_quality = predict_quality
        self.centerness = nn.Conv2d(width, 1, kernel_size=3, padding=1) if predict_quality else None
        self.scales = nn.ModuleList(
            Scale() if use_scale else nn.Identity() for _ in range(len(input_shape))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Every location starts as background with this confidence, or their sum would drown the
        # few positives (focal loss, arXiv:1708.02002, Sec. 3.3).
        assert self.cls_logits.bias is not None
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior_prob) / prior_prob))

    @classmethod
    def from_config(
        cls, cfg: Any, input_shape: Sequence[ShapeSpec], num_classes: int
    ) -> dict[str, Any]:
        fcos = cfg.MODEL.FCOS
        return {
            "input_shape": input_shape,
            "num_classes": num_classes,
            "num_cls_convs": fcos.NUM_CLS_CONVS,
            "num_box_convs": fcos.NUM_BOX_CONVS,
            "norm": fcos.NORM,
            "use_scale": fcos.USE_SCALE,
            "centerness_on": fcos.CENTERNESS_ON,
            "prior_prob": fcos.PRIOR_PROB,
        }

    def forward(
        self, features: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """
        Args:
            features (list[Tensor]): L maps (N, C, Hi, Wi).

        Returns:
            (list[Tensor], list[Tensor], list[Tensor]): for each level, class logits (N, K, Hi, Wi),
            raw ltrb (N, 4, Hi, Wi) to be activated by :func:`.box_coding.activate_ltrb`, and
            centre-ness logits (N, 1, Hi, Wi), an empty list without that branch.
        """
        assert len(features) == len(self.scales), (len(features), len(self.scales))
        cls_logits, raw_ltrb, centerness_logits = [], [], []
        for feature, scale in zip(features, self.scales, strict=True):
            cls_feature = self.cls_tower(feature)
            box_feature = self.bbox_tower(feature)
            cls_logits.append(self.cls_logits(cls_feature))
            raw_ltrb.append(scale(self.bbox_pred(box_feature)))
            if self.centerness is not None:
                centerness_logits.append(
                    self.centerness(box_feature if self.centerness_on == "box" else cls_feature)
                )
        return cls_logits, raw_ltrb, centerness_logits


def _tower(channels: int, num_convs: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        # The convolutions keep their bias under a norm: so did every released checkpoint.
        layers.append(nn.Conv2d(channels, channels, kernel_size=3, padding=1))
        if norm:
            layers.append(_GroupNorm(channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
