"""Detection of a model's architecture (part of its config) from names and shapes of weights."""

import re
from collections.abc import Iterable, Mapping

import torch
from detectron2.config import CfgNode

from ..errors import InputError, listed
from .formats import Settings

__all__ = ["describe_model", "read_architecture"]

Shapes = Mapping[str, torch.Size]

_BOTTOM_UP = "backbone.bottom_up."
_TIMM = f"{_BOTTOM_UP}net."
_STAGES = (2, 3, 4, 5)
_DEPTH_BY_BLOCKS: dict[tuple[int, ...], int] = {
    # (has bottlenecks, blocks of res2, ..., res5)
    (False, 2, 2, 2, 2): 18,
    (False, 3, 4, 6, 3): 34,
    (True, 3, 4, 6, 3): 50,
    (True, 3, 4, 23, 3): 101,
    (True, 3, 8, 36, 3): 152,
}
# Name of a timm network -> the name of a weight that only this network has.
_TIMM_NETWORKS = {
    "dla34": f"{_TIMM}level5.tree2.conv2.weight",
    "mobilenetv2_100": f"{_TIMM}blocks.6.0.conv_pwl.weight",
}
_KERNEL_SAMPLES = 9  # sampling points of a deformable 3x3 kernel


def read_architecture(shapes: Shapes) -> Settings:
    """
    Detect the architecture of a model from the names and shapes of its weights.

    A norm with running statistics is "BN" if it counts batches, and "FrozenBN" otherwise.

    Args:
        shapes (dict[str, torch.Size]): Shapes of the weights, by their names in this project.

    Returns:
        dict[str, Any]: Config key -> value, for the backbone, the pyramid, the head and the levels.
        Other keys cannot be detected from the weights.

    Raises:
        InputError: If the names do not belong to a model that this project can build.
    """
    pyramid = _read_pyramid(shapes)
    return {
        "MODEL.META_ARCHITECTURE": "FCOS",
        **_read_bottom_up(shapes, pyramid["MODEL.FPN.IN_FEATURES"]),
        **pyramid,
        **_read_head(shapes, pyramid["MODEL.FPN.OUT_CHANNELS"]),
    }


def describe_model(cfg: CfgNode) -> str:
    """
    Describe the model of a config in one line.

    Users can check from it that nothing was lost in a conversion.
    """
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


def _read_pyramid(shapes: Shapes) -> Settings:
    """Detect the levels of the pyramid, its channels and its norm."""
    levels = sorted(_numbers(r"backbone\.fpn_lateral(\d)\.weight", shapes))
    if not levels:
        raise InputError("there is no FPN (backbone.fpn_lateral3.weight, ...).")
    channels = shapes[f"backbone.fpn_lateral{levels[-1]}.weight"][0]
    num_top = sum(f"backbone.top_block.p{levels[-1] + i}.weight" in shapes for i in (1, 2))
    settings: Settings = {
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


def _read_head(shapes: Shapes, fpn_channels: int) -> Settings:
    """Detect the number of classes, the towers and their layers."""
    if "head.cls_logits.weight" not in shapes:
        raise InputError("there is no class layer (head.cls_logits.weight).")
    logits = shapes["head.cls_logits.weight"]
    conv_names = [name for name, shape in shapes.items() if len(shape) == 4]
    num_convs = {
        tower: len(_numbers(rf"head\.{tower}_tower\.(\d\d?)(?:\.conv)?\.weight", conv_names))
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
    """
    Return detectron2's name of the norm in the towers; "" if they have none.

    The norm is the layer after the first convolution of a tower. "BN" is a list of norms, one for
    each level.
    """
    for tower in ("share", "cls", "bbox"):
        if f"head.{tower}_tower.1.0.weight" in shapes:
            return "BN"
        if len(shapes.get(f"head.{tower}_tower.1.weight", ())) == 1:
            return "GN"
    return ""


def _read_bottom_up(shapes: Shapes, features: list[str]) -> Settings:
    """Detect the bottom-up network: a ResNet or one of the known timm networks."""
    if f"{_BOTTOM_UP}stem.conv1.weight" in shapes:
        return _read_resnet(shapes, features)
    for network, weight in _TIMM_NETWORKS.items():
        if weight in shapes:
            counts_batches = any(
                name.startswith(_TIMM) and name.endswith("num_batches_tracked") for name in shapes
            )
            return {
                "MODEL.BACKBONE.NAME": "build_fcos_timm_fpn_backbone",
                "MODEL.BACKBONE.FREEZE_AT": 0,
                "MODEL.TIMM.NAME": network,
                "MODEL.TIMM.NORM": "" if counts_batches else "FrozenBN",
            }
    names = sorted(name for name in shapes if name.startswith(_BOTTOM_UP))
    raise InputError(
        "the converter does not know the bottom-up network. It knows ResNet and ResNeXt as "
        "detectron2 builds them, DLA-34 and MobileNetV2. The weights are: "
        f"{listed(names) or 'none'}."
    )


def _read_resnet(shapes: Shapes, features: list[str]) -> Settings:
    """Detect the depth, the widths and the norm of a ResNet that makes the features."""
    has_bottlenecks = f"{_BOTTOM_UP}res2.0.conv3.weight" in shapes
    blocks = [
        len(_numbers(rf"backbone\.bottom_up\.res{stage}\.(\d\d?)\.conv1\.weight", shapes))
        for stage in _STAGES
    ]
    depth = _DEPTH_BY_BLOCKS.get((has_bottlenecks, *blocks))
    if depth is None:
        raise InputError(
            f"detectron2 has no ResNet with {blocks} blocks in res2 to res5 "
            f"({'with' if has_bottlenecks else 'without'} bottlenecks)."
        )
    stem = shapes[f"{_BOTTOM_UP}stem.conv1.weight"]
    last = shapes[f"{_BOTTOM_UP}res2.0.conv{3 if has_bottlenecks else 2}.weight"]
    norm = _norm_of(f"{_BOTTOM_UP}stem.conv1.norm", shapes)
    settings: Settings = {
        "MODEL.BACKBONE.NAME": "build_fcos_resnet_fpn_backbone",
        # A norm that counts batches was trained, so the stem was not frozen.
        "MODEL.BACKBONE.FREEZE_AT": 0 if norm == "BN" else 2,
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NORM": norm,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": stem[0],
        "MODEL.RESNETS.RES2_OUT_CHANNELS": last[0],
        "MODEL.RESNETS.NUM_GROUPS": 1,
        "MODEL.RESNETS.OUT_FEATURES": list(features),
    }
    if has_bottlenecks:
        settings |= _read_bottlenecks(shapes)
    return settings


def _read_bottlenecks(shapes: Shapes) -> Settings:
    """Detect the groups and the deformable convolutions of a ResNet with bottlenecks."""
    width = shapes[f"{_BOTTOM_UP}res2.0.conv1.weight"][0]
    # The weight of a grouped convolution has the input channels of one group.
    conv2 = shapes.get(f"{_BOTTOM_UP}res2.0.conv2.weight", (width, width))
    groups = max(width // max(conv2[1], 1), 1)
    # For each group and sampling point, DCNv1 predicts x and y, DCNv2 also a modulation.
    offset_channels = [
        shapes.get(f"{_BOTTOM_UP}res{stage}.0.conv2_offset.weight", (0,))[0] for stage in _STAGES
    ]
    most_channels = max(offset_channels)
    is_modulated = most_channels > 0 and most_channels % (3 * _KERNEL_SAMPLES) == 0
    channels_per_group = (3 if is_modulated else 2) * _KERNEL_SAMPLES
    return {
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width // groups,
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [number > 0 for number in offset_channels],
        "MODEL.RESNETS.DEFORM_MODULATED": is_modulated,
        "MODEL.RESNETS.DEFORM_NUM_GROUPS": max(most_channels // channels_per_group, 1),
    }


def _norm_of(prefix: str, shapes: Shapes) -> str:
    """Return detectron2's name of the norm under a prefix; "" if there is none."""
    if f"{prefix}.num_batches_tracked" in shapes:
        return "BN"
    if f"{prefix}.running_var" in shapes:
        return "FrozenBN"
    return "GN" if f"{prefix}.weight" in shapes else ""


def _numbers(pattern: str, names: Iterable[str]) -> set[int]:
    """Return the numbers that the first group of a pattern matches in names."""
    return {int(match[1]) for name in names if (match := re.fullmatch(pattern, name))}
