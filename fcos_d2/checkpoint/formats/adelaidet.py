"""AdelaiDet (github.com/aim-uofa/AdelaiDet), built on detectron2."""

from .key_table import KeyTable
from .source import RECIPES, SameAs, Settings, Source, pixel_statistics, usual_of_detectron2

__all__ = ["ADELAIDET"]

_HEAD = "proposal_generator.fcos_head."
_BOTTOM_UP = "backbone.bottom_up."

_KEYS = KeyTable(
    [
        (f"{_HEAD}ctrness.", "head.centerness."),
        (_HEAD, "head."),
        # DLA-34 is timm's here.
        (f"{_BOTTOM_UP}base_layer.", f"{_BOTTOM_UP}net.base_layer."),
        (f"{_BOTTOM_UP}level{{i}}.", f"{_BOTTOM_UP}net.level{{i}}."),
        ("backbone.", "backbone."),
    ]
)


def _assume(told: Settings, recipe: str | None, style: str | None) -> Settings:
    groups = told.get("MODEL.RESNETS.NUM_GROUPS", 1)
    is_x101_32x8d = groups == 32 and told["MODEL.RESNETS.WIDTH_PER_GROUP"] == 8
    assumed: Settings = {
        **usual_of_detectron2(told),
        "MODEL.FCOS.BOX_QUALITY": "centerness",  # "iou" has the same weights
        "MODEL.FCOS.SCORE_THRESH_TEST": 0.05,
        "MODEL.FCOS.THRESH_WITH_CTR": False,
        "MODEL.FCOS.NMS_THRESH_TEST": 0.6,
    }
    if is_x101_32x8d:
        assumed["MODEL.PIXEL_STD"] = [57.375, 57.12, 58.395]
    if len(told["MODEL.FCOS.IN_FEATURES"]) == 3:  # FCOS-RT
        assumed |= {"INPUT.MIN_SIZE_TEST": 512, "INPUT.MAX_SIZE_TEST": 736}
    return assumed


ADELAIDET = Source(
    name="adelaidet",
    title="AdelaiDet",
    signature=(_HEAD,),
    keys=_KEYS,
    dead={
        r"backbone\.bottom_up\.level[34]\.project\..*": (
            "DLA-34 computes these projections and uses them nowhere"
        ),
        r"pixel_(mean|std)": "now in the config",
    },
    facts={**RECIPES["improved"], "MODEL.FCOS.LOCATION_OFFSET": 0.5},
    has_equal_towers=False,
    tell=pixel_statistics,
    assume=_assume,
    to_theirs=lambda weights: weights,
    needs={
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
        "it clips boxes after NMS, and thus suppresses by those that reach out of the image",
        "its box loss is that of (intersection + 1) / (union + 1)",
    ),
)
