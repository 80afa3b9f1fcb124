"""Checkpoints of this project."""

from collections.abc import Mapping
from typing import Any

from .key_table import KeyTable
from .source import Settings, Source, Weights, usual_of_detectron2

__all__ = ["OWN"]


def _tell(content: Mapping[str, Any], weights: Weights) -> Settings:
    """Others always have a quality branch. Which quality it was taught, its weights do not tell."""
    has_quality = any(name.startswith("head.centerness.") for name in weights)
    return {} if has_quality else {"MODEL.FCOS.BOX_QUALITY": "none"}


def _assume(told: Settings, recipe: str | None, style: str | None) -> Settings:
    return {
        **usual_of_detectron2(told),
        "MODEL.FPN.FUSE_TYPE": "sum",
        "MODEL.FCOS.LOCATION_OFFSET": 0.5,
        "MODEL.FCOS.THRESH_WITH_CTR": False,
    }


OWN = Source(
    name="fcos_d2",
    title="this project",
    signature=("head.cls_logits.", "head.bbox_pred.", "backbone.bottom_up."),
    keys=KeyTable([("backbone.", "backbone."), ("head.", "head.")]),
    dead={r"losses\..*": "what the losses remember of batches"},
    has_equal_towers=False,
    tell=_tell,
    usual_recipe=lambda told, weights: "improved",
    assume=_assume,
)
