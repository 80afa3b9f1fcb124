"""The names and settings of this project's checkpoints."""

from collections.abc import Mapping
from typing import Any

from .key_table import KeyTable
from .source import Settings, Source, Weights, detectron2_defaults

__all__ = ["OWN"]


def _read_settings(content: Mapping[str, Any], weights: Weights) -> Settings:
    """
    Detect models without a quality branch, which other projects do not have.

    The weights of a quality branch do not show which quality it predicts.
    """
    has_quality = any(name.startswith("head.centerness.") for name in weights)
    return {} if has_quality else {"MODEL.FCOS.BOX_QUALITY": "none"}


def _default_settings(detected: Settings, recipe: str | None, style: str | None) -> Settings:
    """Return the defaults of this project."""
    return {
        **detectron2_defaults(detected),
        "MODEL.FPN.FUSE_TYPE": "sum",
        "MODEL.FCOS.LOCATION_OFFSET": 0.5,
        "MODEL.FCOS.THRESH_WITH_CTR": False,
    }


OWN = Source(
    name="fcos_d2",
    title="this project",
    signature=("head.cls_logits.", "head.bbox_pred.", "backbone.bottom_up."),
    keys=KeyTable([("backbone.", "backbone."), ("head.", "head.")]),
    dead={r"losses\..*": "statistics that the losses keep between batches"},
    has_equal_towers=False,
    read_settings=_read_settings,
    default_recipe=lambda detected, weights: "improved",
    default_settings=_default_settings,
)
