"""Conversion with a given config: from this project to another one, and from backbones."""

import os
from collections.abc import Sequence
from functools import reduce
from operator import getitem
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from ..errors import InputError, listed
from .checkpointer import FCOSCheckpointer
from .conversion import convert_content, expected_shapes
from .formats import SOURCES, STYLES, SameAs, Source, Weights, recognize_source
from .formats.own import OWN
from .safe_reading import name_weights_file, read_checkpoint
from .saved_weights import find_weights

__all__ = ["WRITABLE", "Packed", "pack_for", "weights_for"]

WRITABLE = [name for name, source in SOURCES.items() if source.to_theirs is not None]
_BACKBONE = "backbone.bottom_up."
# Keys that change the outputs of a model, but not the names and shapes of its weights.
_HIDDEN_KEYS = (
    "INPUT.FORMAT",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.RESNETS.STRIDE_IN_1X1",
    "MODEL.FPN.FUSE_TYPE",
    "MODEL.FCOS.BOX_ACTIVATION",
    "MODEL.FCOS.CENTERNESS_ON",
)


class Packed(NamedTuple):
    """
    Weights of this project after the conversion to another one.

    Attributes:
        weights (dict[str, Tensor]): The weights under the names of the other project.
        content (dict): The content of a .pth file of the other project.
        notes (list[str]): Lines for the user.
    """

    weights: Weights
    content: dict[str, Any]
    notes: list[str]


def pack_for(
    target: str, path: str | os.PathLike[str], cfg: CfgNode, class_names: Sequence[str] = ()
) -> Packed:
    """
    Convert weights of this project to another one.

    Args:
        target (str): One of ``WRITABLE``.
        path (str): A checkpoint of this project.
        cfg (CfgNode): Its config.
        class_names (list[str]): The names of the classes, for projects that save them with the
            weights.

    Raises:
        InputError: If the checkpoint does not fit the config, or the other project cannot build the
            model.
    """
    source = SOURCES[target]
    assert source.to_theirs is not None
    _check_config(source, cfg)
    weights, notes = _read_complete_weights(path, read_checkpoint(path), cfg)
    ours = source.to_theirs(weights)
    their_names = {name: source.keys.to_theirs(name) for name in ours}
    without_place = [name for name, theirs in their_names.items() if theirs is None]
    if without_place:
        raise InputError(
            f"--to {target}: {source.title} has no place for {listed(without_place, 50)}."
        )
    theirs = {new: ours[name] for name, new in their_names.items() if new is not None}
    content = source.pack(theirs, list(class_names), cfg)
    notes = [*notes, *_check_round_trip(source, theirs, weights, cfg)]
    notes += [f"what differs there: {text}" for text in source.differences]
    return Packed(theirs, content, notes)


def _check_config(source: Source, cfg: CfgNode) -> None:
    """
    Check that the other project can build the model and computes the same with it.

    Raises:
        InputError: If the other project does not support the value of a key.
    """
    for key, supported in source.supported.items():
        value = _value(cfg, key)
        values = [_value(cfg, x.key) if isinstance(x, SameAs) else _plain(x) for x in supported]
        if value not in values:
            raise InputError(
                f"--to {source.name}: the config has {key} = {value!r}, but {source.title} has "
                f"only {' or '.join(map(repr, values))}.",
                key=key,
                value=value,
            )


def _check_round_trip(source: Source, theirs: Weights, weights: Weights, cfg: CfgNode) -> list[str]:
    """
    Check that the converted weights give the same weights when they are converted back.

    Returns:
        list[str]: Lines about settings that must be set in the other project, because weights do
        not show them.

    Raises:
        InputError: If the weights cannot be converted back, or differ after that.
    """
    try:
        restored = convert_content(theirs, source=source.name)
    except InputError as error:
        raise InputError(
            f"--to {source.name}: the converted weights cannot be converted back: {error}"
        ) from error
    changed = [
        name for name, value in weights.items() if not _is_restored(name, value, restored.weights)
    ]
    if changed:
        raise InputError(
            f"--to {source.name}: {listed(changed, 50)} would not be equal after converting back."
        )
    return [
        f"to be set there: {key} = {_value(cfg, key)!r} (the usual value is "
        f"{_value(restored.cfg, key)!r})"
        for key in _HIDDEN_KEYS
        if _value(cfg, key) != _value(restored.cfg, key)
    ]


def _is_restored(name: str, value: Tensor, restored: Weights) -> bool:
    """Check that a weight is the same after converting back, or can be omitted."""
    if name in restored:
        return torch.equal(restored[name], value)
    # Norms that the other project freezes do not count batches, and a missing scale is 1.
    is_one = name.startswith("head.scales.") and bool((value == 1).all())
    return is_one or name.endswith(".num_batches_tracked")


def _value(cfg: CfgNode, key: str) -> Any:
    """Return the value of a full key, as a list if it is a tuple."""
    return _plain(reduce(getitem, key.split("."), cfg))


def _plain(value: Any) -> Any:
    """Convert a tuple to a list."""
    return list(value) if isinstance(value, (list, tuple)) else value


def _read_complete_weights(
    path: str | os.PathLike[str], content: dict[str, Any], cfg: CfgNode
) -> tuple[Weights, list[str]]:
    """
    Find the weights in a checkpoint and check that they are those of the config's model.

    Returns:
        tuple[Weights, list[str]]: All weights of the model, and lines for the user.

    Raises:
        InputError: If weights are missing or left over, or have another shape.
    """
    expected = expected_shapes(cfg)
    with name_weights_file(path):
        weights, notes = find_weights(content)
    # The statistics that losses keep between batches are not weights.
    weights = {k: x for k, x in weights.items() if not k.startswith("losses.")}
    bad = [k for k, shape in expected.items() if k not in weights or weights[k].shape != shape]
    left_over = [k for k in weights if k not in expected]
    if bad or left_over:
        raise InputError(
            f"The weights file {path}: it does not fit the model of --config-file. Missing or of "
            f"another shape: {listed(bad, 50) or 'none'}. Left over: "
            f"{listed(left_over, 50) or 'none'}."
        )
    return weights, notes


def weights_for(cfg: CfgNode, path: str | os.PathLike[str]) -> tuple[Weights, list[str]]:
    """
    Read the weights of any model of this project, or of a backbone.

    Args:
        cfg (CfgNode): The config of the detector.
        path (str): A complete checkpoint of the detector; or the weights of a classifier from
            torchvision, timm or detectron2's model zoo (.pkl), as
            ``checkpointer.FCOSCheckpointer`` reads them.

    Returns:
        tuple[dict[str, Tensor], list[str]]: The weights under the names of the detector, and lines
        for the user.

    Raises:
        InputError: If the weights do not fit the config, or are those of another project's
            detector.
    """
    content = read_checkpoint(path)
    try:
        source = recognize_source(find_weights(content).weights)
    except InputError:  # files of a backbone may have other arrays, too
        source = None
    if source is None:
        weights, notes = _read_backbone_weights(cfg, path)
        return weights, ["only the weights of a backbone, because there is no head", *notes]
    if source.name != OWN.name:
        raise InputError(
            f"The weights file {path} has a whole detector of {source.title}. Its config is "
            "detected from the weights: leave out --config-file, and set other keys by --opts."
        )
    weights, notes = _read_complete_weights(path, content, cfg)
    return weights, ["all weights of the model of --config-file", *notes]


def _read_backbone_weights(cfg: CfgNode, path: str | os.PathLike[str]) -> tuple[Weights, list[str]]:
    """
    Read the weights of a backbone, under the names of a detector.

    Returns:
        tuple[Weights, list[str]]: The weights, and warnings about keys of the config that do not
        fit them.

    Raises:
        InputError: If the file does not fit the detector's backbone, or weights are missing.
    """
    cpu_cfg = cfg.clone()
    cpu_cfg.defrost()
    cpu_cfg.MODEL.DEVICE = "cpu"
    cpu_cfg.MODEL.TIMM.PRETRAINED = False
    model = nn.Module()  # gives the weights the names that they have in a detector
    model.backbone = build_backbone(cpu_cfg)
    with torch.no_grad():
        for name, value in _select_backbone(model.state_dict()).items():
            # The offsets of deformable convolutions start at zero.
            if value.is_floating_point() and "_offset." not in name:
                value.fill_(torch.nan)  # to find weights that loading does not replace
    checkpointer = FCOSCheckpointer(model)
    checkpointer.load(str(path), checkpointables=[])
    weights = _select_backbone(model.state_dict())
    missing = [name for name, value in weights.items() if value.isnan().all()]
    if missing:
        raise InputError(f"The weights file {path} lacks weights: {listed(missing, 50)}.")
    # Names and shapes do not show how torchvision's weights were trained.
    is_torchvision = checkpointer.backbone_source.startswith("torchvision")
    trained_with = STYLES["pytorch"] if is_torchvision else {}
    return weights, [
        f"warning: torchvision trained them with {key} = {value!r}, the config has "
        f"{_value(cfg, key)!r}"
        for key, value in trained_with.items()
        if _value(cfg, key) != value
    ]


def _select_backbone(state: Weights) -> Weights:
    """Return the weights of the bottom-up network."""
    return {name: value for name, value in state.items() if name.startswith(_BACKBONE)}
