"""The names and settings of torchvision's FCOS (torchvision.models.detection.fcos)."""

from ...errors import InputError
from .key_table import KeyTable
from .source import RECIPES, STYLES, SameAs, Settings, Source, Weights, resnet_rows

__all__ = ["TORCHVISION"]

_KEYS = KeyTable(
    [
        *resnet_rows("backbone.body."),
        ("backbone.fpn.inner_blocks.{i}.0.", "backbone.fpn_lateral{i+3}."),
        ("backbone.fpn.layer_blocks.{i}.0.", "backbone.fpn_output{i+3}."),
        ("backbone.fpn.inner_blocks.{i}.", "backbone.fpn_lateral{i+3}."),  # in versions before 0.13
        ("backbone.fpn.layer_blocks.{i}.", "backbone.fpn_output{i+3}."),
        ("backbone.fpn.extra_blocks.", "backbone.top_block."),
        ("head.classification_head.conv.", "head.cls_tower."),
        ("head.classification_head.cls_logits.", "head.cls_logits."),
        ("head.regression_head.conv.", "head.bbox_tower."),
        ("head.regression_head.bbox_reg.", "head.bbox_pred."),
        ("head.regression_head.bbox_ctrness.", "head.centerness."),
    ]
)


def _default_settings(detected: Settings, recipe: str | None, style: str | None) -> Settings:
    """Return torchvision's default thresholds."""
    return {
        # torchvision compares sqrt(class score * center-ness) with 0.2.
        "MODEL.FCOS.SCORE_THRESH_TEST": 0.04,
        "MODEL.FCOS.NMS_THRESH_TEST": 0.6,
    }


def _remove_scales(weights: Weights) -> Weights:
    """
    Remove the scales, which torchvision's FCOS does not have.

    Raises:
        InputError: If a scale is not 1.
    """
    scales = {name: value for name, value in weights.items() if name.startswith("head.scales.")}
    changed = [name for name, value in scales.items() if (value != 1).any()]
    if changed:
        raise InputError(
            f"torchvision's FCOS has no scales, but {', '.join(changed)} differ from 1, so the box "
            "outputs would change. Only models with MODEL.FCOS.USE_SCALE False can be converted "
            "to torchvision."
        )
    return {name: value for name, value in weights.items() if name not in scales}


TORCHVISION = Source(
    name="torchvision",
    title="torchvision's FCOS",
    signature=("head.classification_head.conv.", "head.regression_head.bbox_ctrness."),
    keys=_KEYS,
    fixed_settings={
        **RECIPES["improved"],
        **STYLES["pytorch"],
        "MODEL.FCOS.LOCATION_OFFSET": 0.0,
        "MODEL.FCOS.THRESH_WITH_CTR": True,
        "MODEL.FCOS.CTR_WEIGHTED_LOC_LOSS": False,
    },
    default_settings=_default_settings,
    to_theirs=_remove_scales,
    pack=lambda weights, names, cfg: dict(weights),
    supported={
        **{key: [value] for key, value in STYLES["pytorch"].items()},
        "MODEL.BACKBONE.NAME": ["build_fcos_resnet_fpn_backbone"],
        "MODEL.RESNETS.DEPTH": [50],
        "MODEL.RESNETS.NORM": ["BN", "SyncBN", "FrozenBN"],
        "MODEL.RESNETS.NUM_GROUPS": [1],
        "MODEL.FPN.IN_FEATURES": [["res3", "res4", "res5"]],
        "MODEL.FPN.NORM": [""],
        "MODEL.FPN.FUSE_TYPE": ["sum"],
        "MODEL.FCOS.TOP_LEVELS": [2],
        "MODEL.FCOS.TOP_IN_FEATURE": ["p5"],
        "MODEL.FCOS.HEAD_CHANNELS": [0, SameAs("MODEL.FPN.OUT_CHANNELS")],
        "MODEL.FCOS.NUM_SHARE_CONVS": [0],
        "MODEL.FCOS.NUM_BOX_CONVS": [SameAs("MODEL.FCOS.NUM_CLS_CONVS")],
        "MODEL.FCOS.NORM": ["GN"],
        "MODEL.FCOS.USE_DEFORMABLE": [False],
        "MODEL.FCOS.BOX_QUALITY": ["centerness", "iou"],
        "MODEL.FCOS.BOX_ACTIVATION": ["relu"],
        "MODEL.FCOS.CENTERNESS_ON": ["box"],
        "MODEL.FCOS.LOCATION_OFFSET": [0.0],
    },
    differences=(
        "it pads to multiples of 32 and stretches its locations over the padded image, so those of "
        "P6 and P7 differ unless both padded sides are multiples of 128",
        "it resizes tensors, while detectron2 resizes 8-bit images",
        "it returns boxes that are empty after clipping",
        "it assigns no level to a location whose largest box distance is exactly the limit between "
        "two levels",
    ),
)
