"""
The names and settings of the original FCOS (github.com/tianzhi0549/FCOS).

It is built on maskrcnn-benchmark.
"""

from .key_table import KeyTable
from .source import Settings, Source, Weights, detectron2_defaults, resnet_rows

__all__ = ["ORIGINAL"]

_EPS = 1e-5  # the default of detectron2's FrozenBatchNorm2d and timm's BatchNorm2d

_BODY = "backbone.body."
_OUR_NET = "backbone.bottom_up.net."
# (N in features.N of the first block, number of blocks) of each stage of MobileNetV2.
_MOBILENET_STAGES = [(1, 1), (2, 2), (4, 3), (7, 4), (11, 3), (14, 3), (17, 1)]
_EXPANDED_BLOCK = {0: "conv_pw", 1: "bn1", 3: "conv_dw", 4: "bn2", 6: "conv_pwl", 7: "bn3"}
_FIRST_BLOCK = {0: "conv_dw", 1: "bn1", 3: "conv_pw", 4: "bn2"}  # has no expansion


def _mobilenet_rows() -> list[tuple[str, str]]:
    """Build the rows for MobileNetV2, which this project takes from timm."""
    rows = [
        (f"{_BODY}features.0.0.", f"{_OUR_NET}conv_stem."),
        (f"{_BODY}features.0.1.", f"{_OUR_NET}bn1."),
    ]
    for stage, (first, num_blocks) in enumerate(_MOBILENET_STAGES):
        layers = _EXPANDED_BLOCK if stage else _FIRST_BLOCK
        rows += [
            (
                f"{_BODY}features.{first + block}.conv.{index}.",
                f"{_OUR_NET}blocks.{stage}.{block}.{layer}.",
            )
            for block in range(num_blocks)
            for index, layer in layers.items()
        ]
    return rows


_DEFORMABLE = f"{_BODY}layer{{s}}.{{b}}.conv2."
_OUR_DEFORMABLE = "backbone.bottom_up.res{s+1}.{b}.conv2"

_KEYS = KeyTable(
    [
        (f"{_DEFORMABLE}offset.", f"{_OUR_DEFORMABLE}_offset."),
        (f"{_DEFORMABLE}conv.", f"{_OUR_DEFORMABLE}."),
        (f"{_BODY}stem.bn1.", "backbone.bottom_up.stem.conv1.norm."),
        (f"{_BODY}stem.conv1.", "backbone.bottom_up.stem.conv1."),
        *resnet_rows(_BODY),
        *_mobilenet_rows(),
        ("backbone.fpn.fpn_inner{i}.", "backbone.fpn_lateral{i+1}."),
        ("backbone.fpn.fpn_layer{i}.", "backbone.fpn_output{i+1}."),
        ("backbone.fpn.top_blocks.", "backbone.top_block."),
        ("rpn.head.", "head."),
    ]
)


def _default_settings(detected: Settings, recipe: str | None, style: str | None) -> Settings:
    """Return the settings of the original's configs."""
    return {
        **detectron2_defaults(detected),
        "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
        "MODEL.FCOS.SCORE_THRESH_TEST": 0.05,
        "MODEL.FCOS.NMS_THRESH_TEST": 0.6,
    }


def _fold_eps(weights: Weights) -> Weights:
    """
    Subtract detectron2's eps from the variances of frozen BatchNorm.

    The original's frozen BatchNorm divides by sqrt(var), detectron2's by sqrt(var + eps). BatchNorm
    that is not frozen counts batches; it has the same eps in both projects.
    """
    folded = dict(weights)
    for name, value in weights.items():
        norm, _, statistic = name.rpartition(".")
        if statistic == "running_var" and f"{norm}.num_batches_tracked" not in weights:
            folded[name] = (value.double() - _EPS).to(value.dtype)
    return folded


ORIGINAL = Source(
    name="original",
    title="the original FCOS (tianzhi0549/FCOS)",
    signature=("rpn.head.cls_tower.", "backbone.fpn."),
    keys=_KEYS,
    fixed_settings={"MODEL.FCOS.LOCATION_OFFSET": 0.5, "MODEL.FCOS.USE_SCALE": True},
    default_recipe=lambda detected, weights: "improved",
    default_settings=_default_settings,
    to_ours=_fold_eps,
    differences=(
        "its NMS and its areas take x2 - x1 + 1 pixels as the width of a box from x1 to x2",
        "it clips boxes to width - 1 and height - 1, and returns boxes that are empty after that",
        "its box loss uses (intersection + 1) / (union + 1) as the IoU",
    ),
)
