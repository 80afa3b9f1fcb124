"""What the ablation trains: the steps from the FCOS of 2019 to that of 2020, and single changes."""

import dataclasses
from typing import Any

__all__ = ["GROUPS", "SEEDS_OF_FULL_RECIPE", "VARIANTS", "Variant"]

SEEDS_OF_FULL_RECIPE = (1, 2, 3)

# The network and data of `make demo`, but with an extra level on top of an FPN of three, as the
# papers ask what it shall be made from; the borders between the levels are lower, or the coarsest
# would never have an object (the largest is 120 pixels long).
_BASE = {
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4"],
    "MODEL.FCOS.TOP_LEVELS": 1,
    "MODEL.FCOS.TOP_IN_FEATURE": "p4",
    "MODEL.FCOS.SIZES_OF_INTEREST": [16, 32, 64],
    "MODEL.FCOS.PRIOR_LTRB": 0.0,  # as in the papers
}
# Another value here changes no weight.
_EVALUATION_KEYS = {"MODEL.FCOS.NMS_THRESH_TEST"}


@dataclasses.dataclass(frozen=True)
class Variant:
    """
    Args:
        name (str): of its files.
        title (str): what it is, for the page.
        changes (dict): config keys over those that all variants share.
        published (str): AP in a paper or by a peer, on COCO with ResNet-50; "" where there is none.
        quality_of_regressed_boxes (bool): rank by the centre-ness that the regressed distances
            have themselves, without a branch for it.
        reason (str): why it is far from the full recipe, where it is expected to be.
    """

    name: str
    title: str
    changes: dict[str, Any]
    published: str = ""
    quality_of_regressed_boxes: bool = False
    reason: str = ""

    @property
    def opts(self) -> dict[str, Any]:
        return {**_BASE, **self.changes}

    @property
    def training_opts(self) -> dict[str, Any]:
        return {key: value for key, value in self.opts.items() if key not in _EVALUATION_KEYS}

    @property
    def is_full_recipe(self) -> bool:
        return not self.changes and not self.quality_of_regressed_boxes


# Each step takes the value of a key over from the full recipe: name, title, key, value before it,
# published AP after it (arXiv:1904.01355v5, Table 3).
_STEPS = [
    ("p4_for_top_level", "top level from the FPN (P5)", "TOP_IN_FEATURE", "res4", "36.4"),
    ("nms", "NMS threshold 0.6, was 0.5", "NMS_THRESH_TEST", 0.5, "36.5"),
    ("gn", "GN in the head", "NORM", "", "37.1"),
    ("scale", "a learnable scale a level", "USE_SCALE", False, "+0.1 (Table 8)"),
    ("ctr_on_box", "centre-ness on the box tower", "CENTERNESS_ON", "cls", "37.4"),
    ("center_sampling", "centre sampling", "CENTER_SAMPLING_RADIUS", 0.0, "38.1"),
    ("giou", "GIoU loss, was -log(IoU)", "LOC_LOSS_TYPE", "iou", "38.3"),
    ("full", "distances in strides, was exp in pixels", "BOX_ACTIVATION", "exp", "38.6"),
]
_REASON_OF_STEPS = (
    "most likely the short schedule. The published figures are of 90,000 iterations from ImageNet "
    "weights, these of 1,000 from random ones, where what learns faster is ahead"
)


def _ladder() -> list[Variant]:
    before = {f"MODEL.FCOS.{key}": value for _, _, key, value, _ in _STEPS}
    variants = [
        Variant(
            "c4_for_top_level",
            "all of the below undone: top level from the backbone (C5)",
            dict(before),
            "36.3",
            reason=_REASON_OF_STEPS,
        )
    ]
    for name, title, key, _, published in _STEPS:
        del before[f"MODEL.FCOS.{key}"]
        reason = _REASON_OF_STEPS if before else ""
        variants.append(Variant(name, title, dict(before), published, reason=reason))
    return variants


_NO_QUALITY = {"MODEL.FCOS.BOX_QUALITY": "none"}
_QUALITY = [
    Variant("quality_none", "none", _NO_QUALITY, "33.5"),
    Variant(
        "quality_regressed",
        "centre-ness of the regressed box",
        _NO_QUALITY,
        "33.5",
        quality_of_regressed_boxes=True,
    ),
    Variant("full", "centre-ness branch", {}, "37.1"),
    Variant(
        "quality_iou",
        "IoU branch",
        {"MODEL.FCOS.BOX_QUALITY": "iou"},
        "39.4; 38.7 with the branch above (AdelaiDet)",
    ),
]
_OTHERS = [
    Variant("full", "the full recipe", {}, "38.6"),
    Variant(
        "one_level",
        "one level (stride 8) and no FPN above it",
        {
            "MODEL.RESNETS.OUT_FEATURES": ["res3"],
            "MODEL.FPN.IN_FEATURES": ["res3"],
            "MODEL.FCOS.IN_FEATURES": ["p3"],
            "MODEL.FCOS.TOP_LEVELS": 0,
            "MODEL.FCOS.SIZES_OF_INTEREST": [],
        },
        reason="two of the network's three stages, nothing of coarser maps, and cells of 8 pixels "
        "for objects from 6 pixels on",
    ),
    Variant(
        "three_levels",
        "strides 8 to 32 (as P3-P5 of the real-time models) in place of 4 to 32",
        {
            "MODEL.FCOS.IN_FEATURES": ["p3", "p4", "p5"],
            "MODEL.FCOS.SIZES_OF_INTEREST": [32, 64],
            "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4"],
            "MODEL.FPN.IN_FEATURES": ["res3", "res4"],
        },
        reason="objects of 6 pixels are smaller than a cell of the finest level",
    ),
    Variant(
        "prior_ltrb",
        "boxes start with 4 strides to each side (our default), were empty",
        {"MODEL.FCOS.PRIOR_LTRB": 4.0},
        reason="empty boxes learn their size before anything else, and the schedule is short",
    ),
    Variant("bn_head", "BN in the head, one a level", {"MODEL.FCOS.NORM": "BN"}),
    Variant(
        "shared_tower",
        "one tower for both tasks",
        {
            "MODEL.FCOS.NUM_SHARE_CONVS": 2,
            "MODEL.FCOS.NUM_CLS_CONVS": 0,
            "MODEL.FCOS.NUM_BOX_CONVS": 0,
        },
        reason="half as many convolutions in the head, shared by two tasks",
    ),
    Variant(
        "deformable",
        "deformable last convolution in the towers",
        {"MODEL.FCOS.USE_DEFORMABLE": True},
    ),
    Variant(
        "timm_resnet10t",
        "timm's resnet10t in place of the narrow ResNet-18",
        {"MODEL.BACKBONE.NAME": "build_fcos_timm_fpn_backbone", "MODEL.TIMM.NAME": "resnet10t"},
        reason="most likely the LR, which was chosen for the narrow network",
    ),
]

# Title of the table, and its rows.
GROUPS = [
    ("From 2019 to 2020, step by step", _ladder()),
    ("Quality that ranks the boxes", _QUALITY),
    ("Single changes of the full recipe", _OTHERS),
]
VARIANTS = list({v.name: v for _, variants in GROUPS for v in variants}.values())
