"""The names and settings of detectron2's FCOS (LazyConfig, detectron2.modeling.meta_arch.fcos)."""

from .key_table import KeyTable
from .source import RECIPES, Settings, Source, detectron2_defaults, read_pixel_statistics

__all__ = ["DETECTRON2"]

_KEYS = KeyTable(
    [
        ("head.cls_subnet.", "head.cls_tower."),
        ("head.bbox_subnet.", "head.bbox_tower."),
        ("head.cls_score.", "head.cls_logits."),
        ("head.bbox_pred.", "head.bbox_pred."),
        ("head.ctrness.", "head.centerness."),
        ("backbone.", "backbone."),
    ]
)


def _default_settings(detected: Settings, recipe: str | None, style: str | None) -> Settings:
    """Return the settings of detectron2's configs."""
    return {
        **detectron2_defaults(detected),
        # detectron2 compares sqrt(class score * center-ness) with 0.2.
        "MODEL.FCOS.SCORE_THRESH_TEST": 0.04,
        "MODEL.FCOS.NMS_THRESH_TEST": 0.6,
    }


DETECTRON2 = Source(
    name="detectron2",
    title="detectron2's own FCOS",
    signature=("head.cls_subnet.", "head.ctrness."),
    keys=_KEYS,
    dead={r"pixel_(mean|std)": "the config has them"},
    fixed_settings={
        **RECIPES["improved"],
        "MODEL.FCOS.LOCATION_OFFSET": 0.5,
        "MODEL.FCOS.THRESH_WITH_CTR": True,
        "MODEL.FCOS.CTR_WEIGHTED_LOC_LOSS": False,
    },
    read_settings=read_pixel_statistics,
    default_settings=_default_settings,
    differences=(
        "it clips boxes after NMS, so the parts of boxes outside the image can suppress other "
        "boxes",
        "it assigns no level to a location whose largest box distance is exactly the limit between "
        "two levels",
        "it divides the losses by a moving average that starts at 300, separately in each process",
    ),
)
