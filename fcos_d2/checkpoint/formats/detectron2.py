"""detectron2's own FCOS (LazyConfig, detectron2.modeling.meta_arch.fcos)."""

from .key_table import KeyTable
from .source import RECIPES, Settings, Source, pixel_statistics, usual_of_detectron2

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


def _assume(told: Settings, recipe: str | None, style: str | None) -> Settings:
    return {
        **usual_of_detectron2(told),
        # Its threshold of 0.2 is for sqrt(class score * centre-ness).
        "MODEL.FCOS.SCORE_THRESH_TEST": 0.04,
        "MODEL.FCOS.NMS_THRESH_TEST": 0.6,
    }


DETECTRON2 = Source(
    name="detectron2",
    title="detectron2's own FCOS",
    signature=("head.cls_subnet.", "head.ctrness."),
    keys=_KEYS,
    dead={r"pixel_(mean|std)": "now in the config"},
    facts={
        **RECIPES["improved"],
        "MODEL.FCOS.LOCATION_OFFSET": 0.5,
        "MODEL.FCOS.THRESH_WITH_CTR": True,
        "MODEL.FCOS.CTR_WEIGHTED_LOC_LOSS": False,
    },
    tell=pixel_statistics,
    assume=_assume,
    differences=(
        "it clips boxes after NMS, and thus suppresses by those that reach out of the image",
        "a box whose largest distance is exactly a border of two levels is learnt on neither",
        "its losses are divided by a moving average that starts at 300, in each process its own",
    ),
)
