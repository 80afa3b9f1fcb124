"""The names and settings of mmdetection 1.x to 3.x (github.com/open-mmlab/mmdetection)."""

import ast
import re
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode

from .key_table import KeyTable
from .source import STYLES, SameAs, Settings, Source, Weights, resnet_rows

__all__ = ["MMDET"]

_HEAD = "bbox_head."
_DEFORMABLE = "backbone.layer{s}.{b}.conv2.conv_offset."

_KEYS = KeyTable(
    [
        (_DEFORMABLE, "backbone.bottom_up.res{s+1}.{b}.conv2_offset."),
        *resnet_rows("backbone."),
        ("neck.lateral_convs.{i}.conv.", "backbone.fpn_lateral{i+3}."),
        ("neck.fpn_convs.3.conv.", "backbone.top_block.p6."),
        ("neck.fpn_convs.4.conv.", "backbone.top_block.p7."),
        ("neck.fpn_convs.{i}.conv.", "backbone.fpn_output{i+3}."),
        (f"{_HEAD}cls_convs.{{i}}.conv.conv_offset.", "head.cls_tower.{3*i}.offset."),
        (f"{_HEAD}reg_convs.{{i}}.conv.conv_offset.", "head.bbox_tower.{3*i}.offset."),
        (f"{_HEAD}cls_convs.{{i}}.conv.", "head.cls_tower.{3*i}."),
        (f"{_HEAD}reg_convs.{{i}}.conv.", "head.bbox_tower.{3*i}."),
        (f"{_HEAD}cls_convs.{{i}}.gn.", "head.cls_tower.{3*i+1}."),
        (f"{_HEAD}reg_convs.{{i}}.gn.", "head.bbox_tower.{3*i+1}."),
        (f"{_HEAD}conv_cls.", "head.cls_logits."),
        (f"{_HEAD}conv_reg.", "head.bbox_pred."),
        (f"{_HEAD}conv_centerness.", "head.centerness."),
        (f"{_HEAD}fcos_cls.", "head.cls_logits."),  # 1.x
        (f"{_HEAD}fcos_reg.", "head.bbox_pred."),
        (f"{_HEAD}fcos_centerness.", "head.centerness."),
        (f"{_HEAD}scales.", "head.scales."),
    ]
)

_TOWER_PARAMETER = re.compile(r"head\.(?:cls|bbox)_tower\.(\d+)\.(?:conv\.)?(weight|bias)")


def _default_recipe(detected: Settings, weights: Weights) -> str:
    """
    Guess the recipe from the biases of the towers.

    mmdetection's configs keep these biases only in the improved recipe.
    """
    has_bias = any(re.match(r"bbox_head\.cls_convs\.\d+\.conv\.bias", name) for name in weights)
    return "improved" if has_bias else "iccv"


def _default_style(detected: Settings) -> str:
    """Guess the style from the ResNet: mmdetection's configs use MSRA's where these exist."""
    has_msra_depth = detected["MODEL.RESNETS.DEPTH"] in (50, 101, 152)
    is_msra = has_msra_depth and detected["MODEL.RESNETS.NUM_GROUPS"] == 1
    return "caffe" if is_msra else "pytorch"


def _default_settings(detected: Settings, recipe: str | None, style: str | None) -> Settings:
    """Return the pixel statistics and thresholds of mmdetection's configs."""
    is_improved = recipe == "improved"
    mean = [103.53, 116.28, 123.675] if is_improved else [102.9801, 115.9465, 122.7717]
    caffe_pixels = {"MODEL.PIXEL_MEAN": mean, "MODEL.PIXEL_STD": [1.0, 1.0, 1.0]}
    return {
        **(caffe_pixels if style == "caffe" else {}),
        "MODEL.FCOS.SCORE_THRESH_TEST": 0.05,
        "MODEL.FCOS.NMS_THRESH_TEST": 0.6 if is_improved else 0.5,
    }


def _read_settings(content: Mapping[str, Any], weights: Weights) -> Settings:
    """Read the checkpoint's ``meta``: names of the classes, and the text of the config."""
    meta = content.get("meta")
    if not isinstance(meta, dict):
        return {}
    settings: Settings = {}
    dataset = meta.get("dataset_meta")
    if not isinstance(dataset, dict):
        dataset = {}
    names = meta.get("CLASSES") or dataset.get("classes") or dataset.get("CLASSES")
    if isinstance(names, str):  # ("person") is not a tuple; mmdet accepts it as one class
        settings["FCOS_TRAIN.CLASS_NAMES"] = [names]
    elif isinstance(names, (list, tuple)):
        settings["FCOS_TRAIN.CLASS_NAMES"] = [str(name) for name in names]
    text = meta.get("cfg") or meta.get("config")
    if isinstance(text, str):
        settings |= _read_config(text)
    return settings


def _read_config(text: str) -> Settings:
    """
    Read the settings from mmdetection's config, which is Python source.

    Arguments are found by their name in any part of the text. Values of an unexpected type are
    ignored.
    """
    arguments = _read_arguments(text)
    if "stacked_convs" not in arguments:  # the text has no FCOS head
        return {}
    radius = 0.0
    if arguments.get("center_sampling"):
        radius = _as_number(arguments.get("center_sample_radius")) or 1.5  # mmdet's default
    settings: Settings = {
        "MODEL.FCOS.BOX_ACTIVATION": "relu" if arguments.get("norm_on_bbox") else "exp",
        "MODEL.FCOS.CENTERNESS_ON": "box" if arguments.get("centerness_on_reg") else "cls",
        "MODEL.FCOS.CENTER_SAMPLING_RADIUS": radius,
    }
    style = arguments.get("style")
    if isinstance(style, str) and style in STYLES:
        settings |= STYLES[style]
    is_rgb = arguments.get("bgr_to_rgb", arguments.get("to_rgb"))
    nms_thresh = arguments.get("iou_threshold", arguments.get("iou_thr"))
    optional: Settings = {
        "INPUT.FORMAT": None if is_rgb is None else "RGB" if is_rgb else "BGR",
        "MODEL.PIXEL_MEAN": _as_pixel(arguments.get("mean")),
        "MODEL.PIXEL_STD": _as_pixel(arguments.get("std")),
        "MODEL.FCOS.SCORE_THRESH_TEST": _as_number(arguments.get("score_thr")),
        "MODEL.FCOS.NMS_THRESH_TEST": _as_number(nms_thresh),
    }
    return {**settings, **{key: value for key, value in optional.items() if value is not None}}


def _read_arguments(text: str) -> dict[str, Any]:
    """
    Return the first value of each keyword argument that is a literal.

    The result is empty if the text is not valid Python.
    """
    arguments: dict[str, Any] = {}
    try:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.keyword) and node.arg and isinstance(node.value, _LITERALS):
                arguments.setdefault(node.arg, _literal(node.value))
    # It is not Python, or it is nested too deeply.
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return {}
    return arguments


_LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.UnaryOp)


def _literal(node: ast.expr) -> Any:
    """Return the value of a literal; None if it is not one."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return None


def _as_number(value: Any) -> float | None:
    """Convert a number to float; return None for anything else."""
    return float(value) if isinstance(value, (int, float)) else None


def _as_pixel(value: Any) -> list[float] | None:
    """Convert three numbers to a list of floats; return None for anything else."""
    numbers = [_as_number(x) for x in value] if isinstance(value, (list, tuple)) else []
    pixel = [x for x in numbers if x is not None]
    return pixel if len(pixel) == len(numbers) == 3 else None


def _to_ours(weights: Weights) -> Weights:
    """
    Change scales, deformable convolutions and missing biases to those of this project.

    In mmdetection, scales are numbers without a dimension, and the towers may have no biases.
    """
    result = {}
    for name, value in weights.items():
        if name.startswith("head.scales.") and not value.dim():
            value = value.reshape(1)
        conv, _, parameter = name.rpartition(".")
        if f"{conv}.offset.weight" in weights and conv.startswith("head."):
            name = f"{conv}.conv.{parameter}"
        result[name] = value
    if not any(_is_tower_conv(name, "bias") for name in result):
        for name, value in list(result.items()):
            if _is_tower_conv(name, "weight"):
                result[f"{name.removesuffix('weight')}bias"] = torch.zeros(value.shape[:1])
    return result


def _is_tower_conv(name: str, parameter: str) -> bool:
    """
    Check that a name is a parameter ("weight" or "bias") of a tower's convolution.

    Each convolution is followed by a norm and an activation.
    """
    match = _TOWER_PARAMETER.fullmatch(name)
    return match is not None and int(match[1]) % 3 == 0 and match[2] == parameter


def _describe(weights: Weights) -> list[str]:
    """Report towers without biases."""
    if any(_is_tower_conv(name, "bias") for name in weights):
        return []
    return ["the towers have no biases, because mmdetection omits them before norms: ours are zero"]


def _to_theirs(weights: Weights) -> Weights:
    """
    Invert ``_to_ours``.

    Biases of the towers that are all zero are removed: ``_to_ours`` has added them.
    """
    result = {}
    is_bias = {name: _is_tower_conv(name, "bias") for name in weights}
    has_bias = any(is_bias[name] and value.any() for name, value in weights.items())
    for name, value in weights.items():
        if is_bias[name] and not has_bias:
            continue
        if name.startswith("head.scales."):
            value = value.reshape(())
        result[re.sub(r"^(head\.\w+_tower\.\d+)\.conv\.", r"\1.", name)] = value
    return result


def _pack(weights: Weights, class_names: list[str], cfg: CfgNode) -> dict[str, Any]:
    """Build the content of mmdetection's checkpoint files."""
    meta: dict[str, Any] = {"cfg": _write_config(cfg)}
    if class_names:
        meta["CLASSES"] = tuple(class_names)  # for 2.x
        meta["dataset_meta"] = {"classes": tuple(class_names)}  # for 3.x
    return {"meta": meta, "state_dict": weights}


def _write_config(cfg: CfgNode) -> str:
    """Write the config that ``_read_config`` reads."""
    fcos = cfg.MODEL.FCOS
    radius = fcos.CENTER_SAMPLING_RADIUS
    return f"""# Written by fcos-d2 convert: the settings that the weights do not show.
model = dict(
    data_preprocessor=dict(
        mean={list(cfg.MODEL.PIXEL_MEAN)}, std={list(cfg.MODEL.PIXEL_STD)},
        bgr_to_rgb={cfg.INPUT.FORMAT == "RGB"}),
    backbone=dict(style="{"caffe" if cfg.MODEL.RESNETS.STRIDE_IN_1X1 else "pytorch"}"),
    bbox_head=dict(
        stacked_convs={fcos.NUM_CLS_CONVS}, norm_on_bbox={fcos.BOX_ACTIVATION == "relu"},
        centerness_on_reg={fcos.CENTERNESS_ON == "box"}, center_sampling={radius > 0},
        center_sample_radius={radius or 1.5}),
    test_cfg=dict(
        score_thr={fcos.SCORE_THRESH_TEST}, nms=dict(iou_threshold={fcos.NMS_THRESH_TEST})))
"""


MMDET = Source(
    name="mmdet",
    title="mmdetection",
    signature=("bbox_head.scales.", "neck.fpn_convs.", "bbox_head.reg_convs."),
    keys=_KEYS,
    dead={
        r"ema_(?:backbone|neck|bbox_head)_.*": (
            "mmcv's EMAHook keeps the weights without averaging in them"
        ),
        r"backbone\..*\.num_batches_tracked": "mmdet keeps BatchNorm fixed (norm_eval): FrozenBN",
    },
    fixed_settings={"MODEL.FCOS.LOCATION_OFFSET": 0.5, "MODEL.FCOS.USE_SCALE": True},
    read_settings=_read_settings,
    describe=_describe,
    default_recipe=_default_recipe,
    default_style=_default_style,
    default_settings=_default_settings,
    to_ours=_to_ours,
    to_theirs=_to_theirs,
    pack=_pack,
    supported={
        "MODEL.BACKBONE.NAME": ["build_fcos_resnet_fpn_backbone"],
        "MODEL.RESNETS.NORM": ["BN", "SyncBN", "FrozenBN"],
        "MODEL.FPN.IN_FEATURES": [["res3", "res4", "res5"]],
        "MODEL.FPN.NORM": [""],
        "MODEL.FPN.FUSE_TYPE": ["sum"],
        "MODEL.FCOS.NUM_SHARE_CONVS": [0],
        "MODEL.FCOS.NUM_BOX_CONVS": [SameAs("MODEL.FCOS.NUM_CLS_CONVS")],
        "MODEL.FCOS.NORM": ["GN"],
        "MODEL.FCOS.BOX_QUALITY": ["centerness", "iou"],
        "MODEL.FCOS.LOCATION_OFFSET": [0.5],
        "MODEL.FCOS.USE_SCALE": [True],
    },
    differences=(
        "its scores are class score * center-ness, ours are the square root of that: the order is "
        "the same",
        "it ranks the candidates of a level by class score only, which matters if there are more "
        "than 1000",
    ),
)
