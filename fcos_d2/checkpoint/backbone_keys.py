"""The weights of a backbone alone, such as a classifier's, under the names of a detector."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError, listed

__all__ = ["rename_backbone_keys"]

_BOTTOM_UP = "backbone.bottom_up."
_TIMM = f"{_BOTTOM_UP}net."  # the network of TimmBackbone
_COUNTER = ".num_batches_tracked"  # of BatchNorm; FrozenBatchNorm2d has none

_Shapes = Mapping[str, torch.Size]
# From names of a source to names of the detector. The second argument is the detector.
_Rename = Callable[[Iterable[str], _Shapes], dict[str, str]]


class _Source(NamedTuple):
    name: str
    rename: _Rename
    # Weights behind the last map, which a detector may do without.
    classifier: str


def rename_backbone_keys(
    state_dict: Mapping[str, Tensor], model_shapes: _Shapes
) -> tuple[dict[str, Tensor], str] | None:
    """
    Give the weights of a backbone alone the names that they have in a detector.

    Known sources: the bottom-up network of this project without its prefix; timm's models;
    torchvision's ResNets, for detectron2's ResNet (with MODEL.RESNETS.STRIDE_IN_1X1 False, and
    images in RGB); the EfficientNet-Lite of the package efficientnet-lite-pytorch, for timm's
    ``tf_efficientnet_lite*``, which computes exactly the same (``efficientnet_lite*`` has the same
    weights, but pads elsewhere). Of these, the one counts whose names fit best.

    Args:
        state_dict (Mapping[str, Tensor]): names and weights of the source.
        model_shapes (Mapping[str, torch.Size]): names and shapes of the detector's state dict.

    Returns:
        tuple[dict[str, Tensor], str] | None: the weights of the backbone under the detector's names
        (the same tensors, the classifier's left out), and what the source is called; None: no name
        of any source is a weight of the backbone, of the right shape.

    Raises:
        InputError: the source fits in part: weights without a place in the detector, of another
            shape, or weights of the backbone that the source lacks. The message lists them.
    """
    renamed_by_source = {source: source.rename(state_dict, model_shapes) for source in _SOURCES}

    def num_fitting(source: _Source) -> int:
        return sum(
            model_shapes.get(new) == state_dict[old].shape and not new.endswith(_COUNTER)
            for old, new in renamed_by_source[source].items()
        )

    best = max(_SOURCES, key=num_fitting)  # of equals, the first
    if num_fitting(best) == 0:
        return None
    new_names = {
        old: new
        for old, new in renamed_by_source[best].items()
        if new in model_shapes or not (re.match(best.classifier, old) or old.endswith(_COUNTER))
    }
    _check_fit(best.name, new_names, state_dict, model_shapes)
    return {new: state_dict[old] for old, new in new_names.items()}, best.name


def _check_fit(
    source: str,
    new_names: Mapping[str, str],
    state_dict: Mapping[str, Tensor],
    model_shapes: _Shapes,
) -> None:
    left_over = [old for old, new in new_names.items() if new not in model_shapes]
    misshapen = [
        f"{old} {tuple(state_dict[old].shape)}, not {tuple(model_shapes[new])}"
        for old, new in new_names.items()
        if new in model_shapes and model_shapes[new] != state_dict[old].shape
    ]
    missing = model_shapes.keys() - set(new_names.values())
    missing = {
        name
        for name in missing
        # Deformable convolutions start from offsets that are zero.
        if name.startswith(_BOTTOM_UP) and not name.endswith(_COUNTER) and "_offset." not in name
    }
    problems = [
        f"{title}: {listed(names)}"
        for title, names in [
            ("no place in the detector", left_over),
            ("another shape than the detector's", misshapen),
            ("missing from the file", sorted(missing)),
        ]
        if names
    ]
    if problems:
        raise InputError(
            f"it looks like the weights of a backbone ({source}), but they are not those of the "
            f"detector's. {'. '.join(problems)}. Configure the backbone that the weights are of."
        )


def _rename_bottom_up(names: Iterable[str], shapes: _Shapes) -> dict[str, str]:
    return {name: _BOTTOM_UP + name for name in names}


def _rename_timm(names: Iterable[str], shapes: _Shapes) -> dict[str, str]:
    """Timm's own names; networks that are cut into stages have "stages_0" for "stages.0"."""
    renamed = {name: _TIMM + name for name in names}
    for name, new in renamed.items():
        flat = _TIMM + re.sub(r"^(\w+)\.", r"\1_", name)
        if new not in shapes and flat in shapes:
            renamed[name] = flat
    return renamed


# "layer1" is res2, and so on. Each rule turns the names that the one before has left.
_TORCHVISION_RESNET: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^(conv|bn)1\.", r"stem.\g<1>1."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
]


def _rename_torchvision_resnet(names: Iterable[str], shapes: _Shapes) -> dict[str, str]:
    renamed = {}
    for name in names:
        new = name
        for pattern, replacement in _TORCHVISION_RESNET:
            new = re.sub(pattern, replacement, new)
        renamed[name] = _BOTTOM_UP + new
    return renamed


_LITE_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
_LITE_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# The first block does not expand.
_LITE_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def _rename_efficientnet_lite(names: Iterable[str], shapes: _Shapes) -> dict[str, str]:
    """Blocks are numbered through there; timm numbers stages, and blocks in each."""
    found = (re.match(rf"{re.escape(_TIMM)}blocks\.(\d+)\.(\d+)\.", name) for name in shapes)
    blocks = sorted({(int(match[1]), int(match[2])) for match in found if match})
    renamed = {}
    for name in names:
        match = re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", name)
        layer, _, parameter = name.rpartition(".")
        if match and int(match[1]) < len(blocks):
            stage, block = blocks[int(match[1])]
            table = _LITE_FIRST_BLOCK if match[1] == "0" else _LITE_BLOCK
            new = f"blocks.{stage}.{block}.{table.get(match[2], match[2])}.{match[3]}"
        else:
            new = f"{_LITE_TOP.get(layer, layer)}.{parameter}"
        renamed[name] = _TIMM + new
    return renamed


_SOURCES = [
    _Source("bottom-up network of this project", _rename_bottom_up, r"(linear|(stem\.)?fc)\."),
    _Source(
        "timm",
        _rename_timm,
        r"(fc|classifier|pre_logits|head|head_fc|conv_head|norm_head|bn2|norm|final_conv"
        r"|final_layer|downsamp_modules)\.",
    ),
    _Source(
        "torchvision ResNet; it wants MODEL.RESNETS.STRIDE_IN_1X1 False, INPUT.FORMAT RGB, "
        "PIXEL_MEAN [123.675, 116.28, 103.53] and PIXEL_STD [58.395, 57.12, 57.375]",
        _rename_torchvision_resnet,
        r"fc\.",
    ),
    _Source("EfficientNet-Lite", _rename_efficientnet_lite, r"(_conv_head|_bn1|_fc)\."),
]
