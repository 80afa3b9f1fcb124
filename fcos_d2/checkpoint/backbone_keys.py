"""Renaming of the weights of a backbone, such as a classifier's, to the names in a detector."""

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
# (names of a source, names and shapes of the detector) -> {name of the source: detector's name}
_Rename = Callable[[Iterable[str], _Shapes], dict[str, str]]


class _Source(NamedTuple):
    """
    A project whose backbones are known.

    Attributes:
        name (str): The name in messages.
        rename (Callable): Maps the project's names to those of the detector.
        classifier (str): A pattern of the layers after the last feature map, which a detector does
            not need.
    """

    name: str
    rename: _Rename
    classifier: str


def rename_backbone_keys(
    state_dict: Mapping[str, Tensor], model_shapes: _Shapes
) -> tuple[dict[str, Tensor], str] | None:
    """
    Rename the weights of a backbone to the names that they have in a detector.

    The source is the one in this list for which most weights fit:

    - the bottom-up network of this project, without its prefix;
    - timm's models;
    - torchvision's ResNets, for detectron2's ResNet. They need MODEL.RESNETS.STRIDE_IN_1X1 False
      and images in RGB;
    - EfficientNet-Lite of the package efficientnet-lite-pytorch, for timm's
      ``tf_efficientnet_lite*``, which computes exactly the same. (timm's ``efficientnet_lite*`` has
      the same weights but pads differently.)

    Args:
        state_dict (Mapping[str, Tensor]): The weights of the source.
        model_shapes (Mapping[str, torch.Size]): Names and shapes of the detector's state dict.

    Returns:
        tuple[dict[str, Tensor], str] | None: The weights of the backbone under the detector's names
        and the name of the source. They are the same tensors, without those of the classifier. None
        if no weight fits for any source.

    Raises:
        InputError: If the source fits only partly: weights have no place in the detector, have
            another shape, or are missing. The message lists these weights.
    """
    renamed_by_source = {source: source.rename(state_dict, model_shapes) for source in _SOURCES}

    def num_fitting(source: _Source) -> int:
        """Count the weights that fit the detector if they are renamed as those of a source."""
        return sum(
            model_shapes.get(new) == state_dict[old].shape and not new.endswith(_COUNTER)
            for old, new in renamed_by_source[source].items()
        )

    best = max(_SOURCES, key=num_fitting)  # the first one of equals
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
    """
    Check that the renamed weights are those of the detector's backbone.

    Raises:
        InputError: If the weights do not fit. The message lists the differences.
    """
    left_over = [old for old, new in new_names.items() if new not in model_shapes]
    misshapen = [
        f"{old} {tuple(state_dict[old].shape)}, not {tuple(model_shapes[new])}"
        for old, new in new_names.items()
        if new in model_shapes and model_shapes[new] != state_dict[old].shape
    ]
    missing = {
        name
        for name in model_shapes.keys() - set(new_names.values())
        # The offsets of deformable convolutions start at zero.
        if name.startswith(_BOTTOM_UP) and not name.endswith(_COUNTER) and "_offset." not in name
    }
    problems = [
        f"{title}: {listed(names)}"
        for title, names in [
            ("no place in the detector", left_over),
            ("another shape than in the detector", misshapen),
            ("missing from the file", sorted(missing)),
        ]
        if names
    ]
    if problems:
        raise InputError(
            f"it looks like the weights of a backbone ({source}), but they do not fit the "
            f"backbone of the detector: {'; '.join(problems)}. Set the keys of the config to the "
            "backbone in the file."
        )


def _rename_bottom_up(names: Iterable[str], shapes: _Shapes) -> dict[str, str]:
    """Add the detector's prefix."""
    return {name: _BOTTOM_UP + name for name in names}


def _rename_timm(names: Iterable[str], shapes: _Shapes) -> dict[str, str]:
    """
    Add the detector's prefix to timm's names.

    Networks that timm splits into stages have "stages_0" for "stages.0".
    """
    renamed = {name: _TIMM + name for name in names}
    for name, new in renamed.items():
        flat = _TIMM + re.sub(r"^(\w+)\.", r"\1_", name)
        if new not in shapes and flat in shapes:
            renamed[name] = flat
    return renamed


# (pattern, replacement), applied one after another. "layer1" is res2, and so on.
_TORCHVISION_RESNET: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^(conv|bn)1\.", r"stem.\g<1>1."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
]


def _rename_torchvision_resnet(names: Iterable[str], shapes: _Shapes) -> dict[str, str]:
    """Apply the rules of ``_TORCHVISION_RESNET`` and add the detector's prefix."""
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
# The first block has no expansion.
_LITE_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def _rename_efficientnet_lite(names: Iterable[str], shapes: _Shapes) -> dict[str, str]:
    """
    Translate the names of EfficientNet-Lite to timm's.

    The package numbers all blocks of the network; timm numbers stages, and the blocks of each.
    """
    matches = (re.match(rf"{re.escape(_TIMM)}blocks\.(\d+)\.(\d+)\.", name) for name in shapes)
    blocks = sorted({(int(match[1]), int(match[2])) for match in matches if match})
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
        "torchvision ResNet; it needs MODEL.RESNETS.STRIDE_IN_1X1 False, INPUT.FORMAT RGB, "
        "PIXEL_MEAN [123.675, 116.28, 103.53] and PIXEL_STD [58.395, 57.12, 57.375]",
        _rename_torchvision_resnet,
        r"fc\.",
    ),
    _Source("EfficientNet-Lite", _rename_efficientnet_lite, r"(_conv_head|_bn1|_fc)\."),
]
