"""The names and settings of AdelaiDet (github.com/aim-uofa/AdelaiDet), built on detectron2."""

from .key_table import KeyTable
from .source import RECIPES, SameAs, Settings, Source, detectron2_defaults, read_pixel_statistics

__all__ = ["ADELAIDET"]

_HEAD = "proposal_generator.fcos_head."
_BOTTOM_UP = "backbone.bottom_up."

_KEYS = KeyTable(
    [
        (f"{_HEAD}ctrness.", "head.centerness."),
        (_HEAD, "head."),
        # This project takes DLA-34 from timm.
        (f"{_BOTTOM_UP}base_layer.", f"{_BOTTOM_UP}net.base_layer."),
        (f"{_BOTTOM_UP}level{{i}}.", f"{_BOTTOM_UP}net.level{{i}}."),
        ("backbone.", "backbone."),
    ]
)


def _default_settings(detected: Settings, recipe: str | None, style: str | None) -> Settings:
    """Return the settings of AdelaiDet's configs."""
    groups = detected.get("MODEL.RESNETS.NUM_GROUPS", 1)
    is_x101_32x8d = groups == 32 and detected["MODEL.RESNETS.WIDTH_PER_GROUP"] == 8
    settings: Settings = {
        **detectron2_defaults(detected),
        "MODEL.FCOS.BOX_QUALITY": "centerness",  # models with "iou" have the same names and shapes
        "MODEL.FCOS.SCORE_THRESH_TEST": 0.05,
        "MODEL.FCOS.THRESH_WITH_CTR": False,
        "MODEL.FCOS.NMS_THRESH_TEST": 0.6,
    }
    if is_x101_32x8d:
        settings["MODEL.PIXEL_STD"] = [57.375, 57.12, 58.395]
    if len(detected["MODEL.FCOS.IN_FEATURES"]) == 3:  # FCOS-RT
        settings |= {"INPUT.MIN_SIZE_TEST": 512, "INPUT.MAX_SIZE_TEST": 736}
    return settings


ADELAIDET = Source(
    name="adelaidet",
    title="AdelaiDet",
    signature=(_HEAD,),
    keys=_KEYS,
    dead={
        r"backbone\.bottom_up\.level[34]\.project\..*": (
            "DLA-34 computes these projections but does not use them"
        ),
        r"pixel_(mean|std)": "the config has them",
    },
    fixed_settings={**RECIPES["improved"], "MODEL.FCOS.LOCATION_OFFSET": 0.5},
    has_equal_towers=False,
    read_settings=read_pixel_statistics,
    default_settings=_default_settings,
    to_theirs=lambda weights: weights,
    supported={
        "MODEL.BACKBONE.NAME": ["build_fcos_resnet_fpn_backbone", "build_fcos_timm_fpn_backbone"],
        "MODEL.TIMM.NAME": ["", "dla34"],
        "MODEL.FCOS.TOP_IN_FEATURE": ["p5"],
        "MODEL.FCOS.HEAD_CHANNELS": [0, SameAs("MODEL.FPN.OUT_CHANNELS")],
        "MODEL.FCOS.BOX_QUALITY": ["centerness", "iou"],
        "MODEL.FCOS.BOX_ACTIVATION": ["relu"],
        "MODEL.FCOS.CENTERNESS_ON": ["box"],
        "MODEL.FCOS.LOCATION_OFFSET": [0.5],
    },
    differences=(
        "it clips boxes after NMS, so the parts of boxes outside the image can suppress other "
        "boxes",
        "its box loss uses (intersection + 1) / (union + 1) as the IoU",
    ),
)
