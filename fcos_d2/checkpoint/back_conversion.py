"""Weights for a config that is given: the way back to other projects, own models, backbones."""

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
from .formats import SOURCES, STYLES, SameAs, Source, Weights, recognise
from .formats.own import OWN
from .safe_reading import read_checkpoint
from .saved_weights import find_weights

__all__ = ["WRITABLE", "Packed", "pack_for", "weights_for"]

WRITABLE = [name for name, source in SOURCES.items() if source.to_theirs is not None]
_BACKBONE = "backbone.bottom_up."
# What a model computes depends on these too, which no name or shape shows.
_UNSEEN = (
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
    Attributes:
        weights (dict[str, Tensor]): under the names of the other project.
        content (dict): what its .pth files hold.
        notes (list[str]): what is to be known of them.
    """

    weights: Weights
    content: dict[str, Any]
    notes: list[str]


def pack_for(
    target: str, path: str | os.PathLike[str], cfg: CfgNode, class_names: Sequence[str] = ()
) -> Packed:
    """
    Weights of this project for another one.

    Args:
        target (str): one of ``WRITABLE``.
        path (str): a checkpoint of this project.
        cfg (CfgNode): its config, which says what weights do not.
        class_names (list[str]): for projects that keep them beside the weights.

    Raises:
        InputError: the checkpoint is not that of the config, or the project has no such model.
    """
    source = SOURCES[target]
    assert source.to_theirs is not None
    _check_config(source, cfg)
    of_model, saved_notes = _complete_weights(path, read_checkpoint(path), cfg)
    ours = source.to_theirs(of_model)
    names = {name: source.keys.to_theirs(name) for name in ours}
    strangers = [name for name, theirs in names.items() if theirs is None]
    if strangers:
        raise InputError(f"--to {target}: {source.title} has no place for {listed(strangers, 50)}.")
    theirs = {new: ours[name] for name, new in names.items() if new is not None}
    content = source.pack(theirs, list(class_names), cfg)
    to_set = _check_return(source, theirs, of_model, cfg)
    differences = [f"what differs there: {text}" for text in source.differences]
    return Packed(theirs, content, [*saved_notes, *to_set, *differences])


def _check_config(source: Source, cfg: CfgNode) -> None:
    """Whether the project builds such models, and computes with them what we do."""
    for key, allowed in source.needs.items():
        value = _value(cfg, key)
        values = [_value(cfg, x.key) if isinstance(x, SameAs) else _plain(x) for x in allowed]
        if value not in values:
            raise InputError(
                f"--to {source.name}: the config has {key} = {value!r}, but {source.title} has "
                f"only {' or '.join(map(repr, values))}."
            )


def _check_return(source: Source, theirs: Weights, weights: Weights, cfg: CfgNode) -> list[str]:
    """
    Reads the weights that are to be written, as if they were the project's own.

    Returns:
        list[str]: what the project must be told, as weights do not.
    """
    try:
        again = convert_content(theirs, source=source.name)
    except InputError as error:
        raise InputError(
            f"--to {source.name}: what comes out could not be read: {error}"
        ) from error
    changed = [name for name, value in weights.items() if not _is_back(name, value, again.weights)]
    if changed:
        raise InputError(f"--to {source.name}: {listed(changed, 50)} would not come back equal.")
    return [
        f"to be set there: {key} = {_value(cfg, key)!r} (taken for {_value(again.cfg, key)!r})"
        for key in _UNSEEN
        if _value(cfg, key) != _value(again.cfg, key)
    ]


def _is_back(name: str, value: Tensor, again: Weights) -> bool:
    if name in again:
        return torch.equal(again[name], value)
    # Norms that the project keeps fixed count no batches; a scale that is not there is 1.
    is_one = name.startswith("head.scales.") and bool((value == 1).all())
    return is_one or name.endswith(".num_batches_tracked")


def _value(cfg: CfgNode, key: str) -> Any:
    return _plain(reduce(getitem, key.split("."), cfg))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _complete_weights(
    path: str | os.PathLike[str], content: dict[str, Any], cfg: CfgNode
) -> tuple[Weights, list[str]]:
    """All weights of the model of the config, and what is to be said of them."""
    expected = expected_shapes(cfg)
    try:
        weights, notes = find_weights(content)
    except InputError as error:
        raise InputError(f"The weights file {path}: {error}") from error
    # What losses remember of batches is no weight.
    weights = {k: x for k, x in weights.items() if not k.startswith("losses.")}
    bad = [k for k, shape in expected.items() if k not in weights or weights[k].shape != shape]
    more = [k for k in weights if k not in expected]
    if bad or more:
        raise InputError(
            f"The weights file {path}: it is not of the model of --config-file. Missing or of "
            f"another shape: {listed(bad, 50) or 'none'}. Not of the model: "
            f"{listed(more, 50) or 'none'}."
        )
    return weights, notes


def weights_for(cfg: CfgNode, path: str | os.PathLike[str]) -> tuple[Weights, list[str]]:
    """
    The weights of a model of this project, whatever it is built of, or of a backbone alone.

    Args:
        cfg (CfgNode): of the detector.
        path (str): its checkpoint, which must be complete; or a classifier's, a file of
            torchvision, timm, or detectron2's model zoo (.pkl), see
            ``checkpointer.FCOSCheckpointer``.

    Returns:
        tuple[dict[str, Tensor], list[str]]: the weights, and what is to be known of them.

    Raises:
        InputError: they do not fit the config, or are of a detector of another project.
    """
    content = read_checkpoint(path)
    try:
        source = recognise(find_weights(content).weights)
    except InputError:  # of a backbone there may be more than weights
        source = None
    if source is None:
        weights, notes = _backbone_for(cfg, path)
        return weights, ["weights of a backbone alone, as there is no head", *notes]
    if source.name != OWN.name:
        raise InputError(
            f"The weights file {path} has a whole detector of {source.title}, whose config the "
            "weights tell: leave --config-file out; --opts sets what they do not tell."
        )
    weights, notes = _complete_weights(path, content, cfg)
    return weights, ["all weights of a model of this project, as --config-file has it", *notes]


def _backbone_for(cfg: CfgNode, path: str | os.PathLike[str]) -> tuple[Weights, list[str]]:
    """
    The weights of a backbone alone under the names of a detector, and what of the config does not
    fit them.

    Raises:
        InputError: the file is not that of the detector's backbone, or lacks weights of it.
    """
    cpu_cfg = cfg.clone()
    cpu_cfg.defrost()
    cpu_cfg.MODEL.DEVICE = "cpu"
    cpu_cfg.MODEL.TIMM.PRETRAINED = False
    model = nn.Module()  # of which the checkpointer wants the names
    model.backbone = build_backbone(cpu_cfg)
    with torch.no_grad():
        for name, value in _of_backbone(model.state_dict()).items():
            # Offsets of deformable convolutions start at zero.
            if value.is_floating_point() and "_offset." not in name:
                value.fill_(torch.nan)  # what is still so afterwards was not in the file
    checkpointer = FCOSCheckpointer(model)
    checkpointer.load(str(path), checkpointables=[])
    weights = _of_backbone(model.state_dict())
    missing = [name for name, value in weights.items() if value.isnan().all()]
    if missing:
        raise InputError(f"The weights file {path} lacks weights: {listed(missing, 50)}.")
    # No name or shape shows how torchvision's were trained.
    wanted = STYLES["pytorch"] if checkpointer.backbone_source.startswith("torchvision") else {}
    return weights, [
        f"warning: torchvision trained them with {key} = {value!r}, the config has "
        f"{_value(cfg, key)!r}"
        for key, value in wanted.items()
        if _value(cfg, key) != value
    ]


def _of_backbone(state: Weights) -> Weights:
    return {name: value for name, value in state.items() if name.startswith(_BACKBONE)}
