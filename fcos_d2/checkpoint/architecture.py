"""What names and shapes of weights say of the model: its config, as far as they can tell it."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode

from ..errors import InputError, listed

__all__ = ["describe_model", "read_architecture"]

Shapes = Mapping[str, torch.Size]

_BOTTOM_UP = "backbone.bottom_up."
_TIMM = f"{_BOTTOM_UP}net."
_STAGES = (2, 3, 4, 5)
_BLOCKS_OF_DEPTH: dict[tuple[int, ...], int] = {
    # (has bottlenecks, blocks of res2, ..., res5)
    (False, 2, 2, 2, 2): 18,
    (False, 3, 4, 6, 3): 34,
    (True, 3, 4, 6, 3): 50,
    (True, 3, 4, 23, 3): 101,
    (True, 3, 8, 36, 3): 152,
}
# A weight that only this network of timm has.
_TIMM_NETWORKS = {
    "dla34": f"{_TIMM}level5.tree2.conv2.weight",
    "mobilenetv2_100": f"{_TIMM}blocks.6.0.conv_pwl.weight",
}
_SAMPLES = 9  # of a deformable 3x3 kernel


def read_architecture(shapes: Shapes) -> dict[str, Any]:
    """
    The config of a model, from its weights.

    Args:
        shapes (dict[str, torch.Size]): names of this project, and shapes.

    Returns:
        dict[str, Any]: config key -> value: backbone, pyramid, head, levels; the rest is for others
        to say. A norm with running statistics is "BN" if it counts batches, otherwise "FrozenBN".

    Raises:
        InputError: the names are of no model that this project builds.
    """
    pyramid = _read_pyramid(shapes)
    return {
        "MODEL.META_ARCHITECTURE": "FCOS",
        **_read_bottom_up(shapes),
        **pyramid,
        **_read_head(shapes, pyramid["MODEL.FPN.OUT_CHANNELS"]),
    }


def describe_model(cfg: CfgNode) -> str:
    """What model the weights were taken for, so that what has quietly gone missing shows."""
    fcos, backbone = cfg.MODEL.FCOS, cfg.MODEL.RESNETS
    is_timm = "timm" in cfg.MODEL.BACKBONE.NAME
    network = cfg.MODEL.TIMM.NAME if is_timm else f"ResNet-{backbone.DEPTH} ({backbone.NORM})"
    towers = {
        "shared": fcos.NUM_SHARE_CONVS,
        "class": fcos.NUM_CLS_CONVS,
        "box": fcos.NUM_BOX_CONVS,
    }
    return (
        f"the model: {network}; {', '.join(fcos.IN_FEATURES)}; convolutions of the towers "
        f"({fcos.NORM or 'no norm'}): {', '.join(f'{n} {x}' for x, n in towers.items())}; "
        f"{'with' if fcos.USE_SCALE else 'no'} scales; box quality: {fcos.BOX_QUALITY}; "
        f"{fcos.NUM_CLASSES} classes"
    )


def _read_pyramid(shapes: Shapes) -> dict[str, Any]:
    levels = sorted(_numbers(r"backbone\.fpn_lateral(\d)\.weight", shapes))
    if not levels:
        raise InputError("there is no FPN (backbone.fpn_lateral3.weight, ...).")
    channels = shapes[f"backbone.fpn_lateral{levels[-1]}.weight"][0]
    num_top = sum(f"backbone.top_block.p{levels[-1] + i}.weight" in shapes for i in (1, 2))
    settings = {
        "MODEL.FPN.IN_FEATURES": [f"res{level}" for level in levels],
        "MODEL.FPN.OUT_CHANNELS": channels,
        "MODEL.FPN.NORM": _norm_of(f"backbone.fpn_lateral{levels[0]}.norm", shapes),
        "MODEL.FCOS.TOP_LEVELS": num_top,
        "MODEL.FCOS.IN_FEATURES": [
            f"p{level}" for level in range(levels[0], levels[-1] + num_top + 1)
        ],
    }
    if num_top:
        first = shapes[f"backbone.top_block.p{levels[-1] + 1}.weight"]
        is_p5 = len(first) > 1 and first[1] == channels
        settings["MODEL.FCOS.TOP_IN_FEATURE"] = f"{'p' if is_p5 else 'res'}{levels[-1]}"
    return settings


def _read_head(shapes: Shapes, fpn_channels: int) -> dict[str, Any]:
    if "head.cls_logits.weight" not in shapes:
        raise InputError("there is no class layer (head.cls_logits.weight).")
    logits = shapes["head.cls_logits.weight"]
    num_convs = {
        tower: len(
            _numbers(
                rf"head\.{tower}_tower\.(\d\d?)(?:\.conv)?\.weight",
                {name for name, shape in shapes.items() if len(shape) == 4},
            )
        )
        for tower in ("share", "cls", "bbox")
    }
    return {
        "MODEL.FCOS.NUM_CLASSES": logits[0],
        "MODEL.FCOS.NUM_SHARE_CONVS": num_convs["share"],
        "MODEL.FCOS.NUM_CLS_CONVS": num_convs["cls"],
        "MODEL.FCOS.NUM_BOX_CONVS": num_convs["bbox"],
        "MODEL.FCOS.HEAD_CHANNELS": 0 if logits[1] == fpn_channels else logits[1],
        "MODEL.FCOS.NORM": _norm_of_towers(shapes),
        "MODEL.FCOS.USE_DEFORMABLE": any(
            re.match(r"head\.\w+_tower\.\d+\.offset\.", name) for name in shapes
        ),
        "MODEL.FCOS.USE_SCALE": any(name.startswith("head.scales.") for name in shapes),
    }


def _norm_of_towers(shapes: Shapes) -> str:
    """The first layer behind a tower's first convolution; a list of norms is one for each level."""
    for tower in ("share", "cls", "bbox"):
        if f"head.{tower}_tower.1.0.weight" in shapes:
            return "BN"
        if len(shapes.get(f"head.{tower}_tower.1.weight", ())) == 1:
            return "GN"
    return ""


def _read_bottom_up(shapes: Shapes) -> dict[str, Any]:
    if f"{_BOTTOM_UP}stem.conv1.weight" in shapes:
        return _read_resnet(shapes)
    for name, weight in _TIMM_NETWORKS.items():
        if weight in shapes:
            is_counting = any(
                key.startswith(_TIMM) and key.endswith("num_batches_tracked") for key in shapes
            )
            return {
                "MODEL.BACKBONE.NAME": "build_fcos_timm_fpn_backbone",
                "MODEL.BACKBONE.FREEZE_AT": 0,
                "MODEL.TIMM.NAME": name,
                "MODEL.TIMM.NORM": "" if is_counting else "FrozenBN",
            }
    names = sorted(name for name in shapes if name.startswith(_BOTTOM_UP))
    raise InputError(
        "the bottom-up network is none that the converter knows (ResNet and ResNeXt of detectron2, "
        f"DLA-34, MobileNetV2): {listed(names) or 'it has no weights'}."
    )


def _read_resnet(shapes: Shapes) -> dict[str, Any]:
    has_bottlenecks = f"{_BOTTOM_UP}res2.0.conv3.weight" in shapes
    blocks = [
        len(_numbers(rf"backbone\.bottom_up\.res{stage}\.(\d\d?)\.conv1\.weight", shapes))
        for stage in _STAGES
    ]
    depth = _BLOCKS_OF_DEPTH.get((has_bottlenecks, *blocks))
    if depth is None:
        raise InputError(
            f"no ResNet of detectron2 has {blocks} blocks in res2 to res5 "
            f"({'with' if has_bottlenecks else 'without'} bottlenecks)."
        )
    stem = shapes[f"{_BOTTOM_UP}stem.conv1.weight"]
    last = shapes[f"{_BOTTOM_UP}res2.0.conv{3 if has_bottlenecks else 2}.weight"]
    norm = _norm_of(f"{_BOTTOM_UP}stem.conv1.norm", shapes)
    settings = {
        "MODEL.BACKBONE.NAME": "build_fcos_resnet_fpn_backbone",
        # A norm that counts batches is trained.
        "MODEL.BACKBONE.FREEZE_AT": 0 if norm == "BN" else 2,
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NORM": norm,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": stem[0],
        "MODEL.RESNETS.RES2_OUT_CHANNELS": last[0],
        "MODEL.RESNETS.NUM_GROUPS": 1,
        "MODEL.RESNETS.OUT_FEATURES": [
            f"res{level}"
            for level in sorted(_numbers(r"backbone\.fpn_lateral(\d)\.weight", shapes))
        ],
    }
    if has_bottlenecks:
        settings |= _read_bottlenecks(shapes)
    return settings


def _read_bottlenecks(shapes: Shapes) -> dict[str, Any]:
    width = shapes[f"{_BOTTOM_UP}res2.0.conv1.weight"][0]
    # Of a grouped convolution, the weight has the channels of one group.
    conv2 = shapes.get(f"{_BOTTOM_UP}res2.0.conv2.weight", (width, width))
    groups = max(width // max(conv2[1], 1), 1)
    fields = [
        shapes.get(f"{_BOTTOM_UP}res{stage}.0.conv2_offset.weight", (0,))[0] for stage in _STAGES
    ]
    num_fields = max(fields)
    is_modulated = num_fields > 0 and num_fields % (3 * _SAMPLES) == 0
    return {
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width // groups,
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [number > 0 for number in fields],
        "MODEL.RESNETS.DEFORM_MODULATED": is_modulated,
        "MODEL.RESNETS.DEFORM_NUM_GROUPS": (
            max(num_fields // ((3 if is_modulated else 2) * _SAMPLES), 1)
        ),
    }


def _norm_of(prefix: str, shapes: Shapes) -> str:
    """detectron2's name of the norm under this prefix."""
    if f"{prefix}.num_batches_tracked" in shapes:
        return "BN"
    if f"{prefix}.running_var" in shapes:
        return "FrozenBN"
    return "GN" if f"{prefix}.weight" in shapes else ""


def _numbers(pattern: str, names: Any) -> set[int]:
    return {int(match[1]) for name in names if (match := re.fullmatch(pattern, name))}
