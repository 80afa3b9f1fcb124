"""mmdetection 1.x to 3.x (github.com/open-mmlab/mmdetection)."""

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

_OF_TOWER = re.compile(r"head\.(?:cls|bbox)_tower\.(\d+)\.(?:conv\.)?(weight|bias)")


def _usual_recipe(told: Settings, weights: Weights) -> str:
    """The improved recipe keeps the biases of the towers, which the other's norms make needless."""
    has_bias = any(re.match(r"bbox_head\.cls_convs\.\d+\.conv\.bias", name) for name in weights)
    return "improved" if has_bias else "iccv"


def _usual_style(told: Settings) -> str:
    is_msra = (
        told["MODEL.RESNETS.DEPTH"] in (50, 101, 152) and told["MODEL.RESNETS.NUM_GROUPS"] == 1
    )
    return "caffe" if is_msra else "pytorch"


def _assume(told: Settings, recipe: str | None, style: str | None) -> Settings:
    is_improved = recipe == "improved"
    mean = [103.53, 116.28, 123.675] if is_improved else [102.9801, 115.9465, 122.7717]
    caffe_pixels = {"MODEL.PIXEL_MEAN": mean, "MODEL.PIXEL_STD": [1.0, 1.0, 1.0]}
    return {
        **(caffe_pixels if style == "caffe" else {}),
        "MODEL.FCOS.SCORE_THRESH_TEST": 0.05,
        "MODEL.FCOS.NMS_THRESH_TEST": 0.6 if is_improved else 0.5,
    }


def _tell(content: Mapping[str, Any], weights: Weights) -> Settings:
    """What the checkpoint's ``meta`` says: names of the classes, and the text of the config."""
    meta = content.get("meta")
    if not isinstance(meta, dict):
        return {}
    told: Settings = {}
    dataset = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, dict) else {}
    names = meta.get("CLASSES") or dataset.get("classes") or dataset.get("CLASSES")
    if isinstance(names, str):  # ("person") is no tuple, and mmdet takes it for one class
        told["FCOS_TRAIN.CLASS_NAMES"] = [names]
    elif isinstance(names, (list, tuple)):
        told["FCOS_TRAIN.CLASS_NAMES"] = [str(name) for name in names]
    text = meta.get("cfg") or meta.get("config")
    if isinstance(text, str):
        told |= _read_config(text)
    return told


def _read_config(text: str) -> Settings:
    """
    Of a config in Python, the arguments that matter here, wherever they stand; what has another
    type than mmdet's is as if it were not there.
    """
    said = _read_arguments(text)
    if "stacked_convs" not in said:  # no head of this kind is written down
        return {}
    radius = _as_number(said.get("center_sample_radius"))
    told = {
        "MODEL.FCOS.BOX_ACTIVATION": "relu" if said.get("norm_on_bbox") else "exp",
        "MODEL.FCOS.CENTERNESS_ON": "box" if said.get("centerness_on_reg") else "cls",
        "MODEL.FCOS.CENTER_SAMPLING_RADIUS": (radius or 1.5)
        if said.get("center_sampling")
        else 0.0,
    }
    style = said.get("style")
    if isinstance(style, str) and style in STYLES:
        told |= STYLES[style]
    is_rgb = said.get("bgr_to_rgb", said.get("to_rgb"))
    nms = said.get("iou_threshold", said.get("iou_thr"))
    others: Settings = {
        "INPUT.FORMAT": None if is_rgb is None else "RGB" if is_rgb else "BGR",
        "MODEL.PIXEL_MEAN": _as_pixel(said.get("mean")),
        "MODEL.PIXEL_STD": _as_pixel(said.get("std")),
        "MODEL.FCOS.SCORE_THRESH_TEST": _as_number(said.get("score_thr")),
        "MODEL.FCOS.NMS_THRESH_TEST": _as_number(nms),
    }
    return {**told, **{key: value for key, value in others.items() if value is not None}}


def _read_arguments(text: str) -> dict[str, Any]:
    """Of each argument that is a literal, its first value."""
    said: dict[str, Any] = {}
    try:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.keyword) and node.arg and isinstance(node.value, _LITERALS):
                said.setdefault(node.arg, _literal(node.value))
    # No Python, or nested so deep that reading it fails.
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return {}
    return said


_LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.UnaryOp)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return None


def _as_number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _as_pixel(value: Any) -> list[float] | None:
    numbers = [_as_number(x) for x in value] if isinstance(value, (list, tuple)) else []
    pixel = [x for x in numbers if x is not None]
    return pixel if len(pixel) == len(numbers) == 3 else None


def _to_ours(weights: Weights) -> Weights:
    """One scale is a number there; deformable convolutions and absent biases have other names."""
    result = {}
    for name, value in weights.items():
        if name.startswith("head.scales.") and not value.dim():
            value = value.reshape(1)
        conv, _, parameter = name.rpartition(".")
        if f"{conv}.offset.weight" in weights and conv.startswith("head."):
            name = f"{conv}.conv.{parameter}"
        result[name] = value
    if not any(_is_of_tower(name, "bias") for name in result):
        for name, value in list(result.items()):
            if _is_of_tower(name, "weight"):
                result[f"{name.removesuffix('weight')}bias"] = torch.zeros(value.shape[:1])
    return result


def _is_of_tower(name: str, parameter: str) -> bool:
    """Of a tower's convolution: every third layer, behind it a norm and an activation."""
    match = _OF_TOWER.fullmatch(name)
    return match is not None and int(match[1]) % 3 == 0 and match[2] == parameter


def _remark(weights: Weights) -> list[str]:
    if any(_is_of_tower(name, "bias") for name in weights):
        return []
    return ["the towers have no biases, as mmdetection builds none under norms: ours are zero"]


def _to_theirs(weights: Weights) -> Weights:
    """Biases that are all zero are those that were added: mmdet builds none under its norms."""
    result = {}
    is_bias = {name: _is_of_tower(name, "bias") for name in weights}
    has_bias = any(is_bias[name] and value.any() for name, value in weights.items())
    for name, value in weights.items():
        if is_bias[name] and not has_bias:
            continue
        if name.startswith("head.scales."):
            value = value.reshape(())
        result[re.sub(r"^(head\.\w+_tower\.\d+)\.conv\.", r"\1.", name)] = value
    return result


def _pack(weights: Weights, names: list[str], cfg: CfgNode) -> dict[str, Any]:
    # 2.x reads the first, 3.x the second.
    classes = {"CLASSES": tuple(names), "dataset_meta": {"classes": tuple(names)}} if names else {}
    return {"meta": {**classes, "cfg": _write_config(cfg)}, "state_dict": weights}


def _write_config(cfg: CfgNode) -> str:
    """What ``_read_config`` reads."""
    fcos = cfg.MODEL.FCOS
    radius = fcos.CENTER_SAMPLING_RADIUS
    return f"""# Written by fcos-d2 convert: what the weights do not tell.
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
            "mmcv's EMAHook keeps the weights that are not averaged there"
        ),
        r"backbone\..*\.num_batches_tracked": "mmdet keeps BatchNorm fixed (norm_eval): FrozenBN",
    },
    facts={"MODEL.FCOS.LOCATION_OFFSET": 0.5, "MODEL.FCOS.USE_SCALE": True},
    tell=_tell,
    remark=_remark,
    usual_recipe=_usual_recipe,
    usual_style=_usual_style,
    assume=_assume,
    to_ours=_to_ours,
    to_theirs=_to_theirs,
    pack=_pack,
    needs={
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
        "its scores are class score * centre-ness, ours their roots: the order is the same",
        "it ranks the candidates of a level by class score alone, which shows where there are more "
        "than the best 1000",
    ),
)
