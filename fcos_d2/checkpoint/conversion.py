"""Making the weights of another project ours, with the config that reproduces its outputs."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from ..config import new_cfg
from ..config_checks import check_config
from ..config_loading import override_config, parse_overrides
from ..errors import InputError, listed
from .architecture import describe_model, read_architecture
from .class_rows import COCO_SETTINGS, drop_background_row, keep_coco_rows
from .formats import RECIPES, SOURCES, STYLES, Settings, Source, Weights, recognise
from .formats.own import OWN
from .safe_reading import read_checkpoint
from .saved_weights import find_weights

__all__ = ["Converted", "convert_content", "expected_shapes", "load_any"]

_MOST_LISTED = 50  # names of one kind in an error


class Converted(NamedTuple):
    """
    Attributes:
        weights (dict[str, Tensor]): under the names of this project, all that the model has.
        cfg (CfgNode): what ``build_model`` makes their model of.
        keys (list[str]): the config keys that were set.
        assumed (dict[str, Any]): config keys and values that the file does not tell.
        source (str): of ``formats.SOURCES``.
        notes (list[str]): what was chosen and what was left behind.
        differences (tuple[str, ...]): what the outputs still differ by.
    """

    weights: Weights
    cfg: CfgNode
    keys: list[str]
    assumed: Settings
    source: str
    notes: list[str]
    differences: tuple[str, ...]


def load_any(path: str | os.PathLike[str], **choices: Any) -> Converted:
    """
    Read the FCOS weights of any project that is known, see ``formats.SOURCES``.

    Args:
        path (str): the file; nothing in it is executed.
        **choices: see ``convert_content``.

    Raises:
        InputError: the file cannot be read, or ``convert_content`` cannot use it.
    """
    content = read_checkpoint(path)
    try:
        return convert_content(content, **choices)
    except InputError as error:
        raise InputError(f"The weights file {path}: {error}") from error


def convert_content(
    content: Mapping[str, Any],
    *,
    source: str | None = None,
    recipe: str | None = None,
    backbone_style: str | None = None,
    coco80: bool = False,
    without_background: bool = False,
    allow_missing: Collection[str] = (),
    opts: Sequence[str] = (),
) -> Converted:
    """
    Args:
        content (dict): of a checkpoint, as ``safe_reading.read_checkpoint`` gives it.
        source (str): name of the project; default: the one whose names the weights have.
        recipe (str): "improved" or "iccv" (box activation, tower of centre-ness, centre sampling,
            box loss), of a source whose weights do not tell; default: its usual one.
        backbone_style (str): "caffe" or "pytorch" (place of the stride, order of the channels,
            pixel statistics), of mmdet; default: its usual one.
        coco80 (bool): of a class layer with torchvision's 91 rows, keep those of COCO's 80 classes.
        without_background (bool): of a class layer, leave out the first row: torchvision's models
            on own data have one for the background.
        allow_missing (Collection[str]): weights that the file may lack, by our names or by its own.
            They start from initial values.
        opts (list[str]): KEY, VALUE, ... of the config; they count for more than all else.

    Raises:
        InputError: the weights are of no known project, or not those of the model that they
            describe; the message lists which.
    """
    saved = find_weights(content)
    known = _find_source(source, saved.weights)
    how = "recognised by their names" if source is None else "as --from says"
    renamed, left_over, notes = _rename(known, saved.weights)
    told = _read(known, renamed, left_over) | known.tell(content, saved.weights)
    if coco80 and without_background:
        raise InputError("of COCO's 80 rows none is the background's: drop no other.")
    if coco80:
        renamed = keep_coco_rows(renamed)
        told |= COCO_SETTINGS
    elif without_background:
        renamed = drop_background_row(renamed)
        told["MODEL.FCOS.NUM_CLASSES"] -= 1
    notes += _drop_unfit_names(told)
    chosen, assumed = _choose(known, told, saved.weights, recipe, backbone_style)
    told |= chosen
    cfg = _build_cfg({**assumed, **told}, opts)
    weights, fill_notes = _fit(known, renamed, left_over, cfg, set(allow_missing))
    of_opts = [key for key, _ in parse_overrides(opts)]
    return Converted(
        weights=weights,
        cfg=cfg,
        keys=list(dict.fromkeys([*told, *assumed, *of_opts])),
        assumed={key: x for key, x in assumed.items() if key not in of_opts},
        source=known.name,
        notes=[
            f"weights of {known.title}, {how}",
            *saved.notes,
            *notes,
            *fill_notes,
            describe_model(cfg),
        ],
        differences=known.differences,
    )


def _find_source(name: str | None, weights: Weights) -> Source:
    if name is not None:
        if name not in SOURCES:
            raise InputError(f"there is no source {name!r}; there are: {', '.join(SOURCES)}.")
        return SOURCES[name]
    found = recognise(weights)
    if found is None:
        raise InputError(
            f"its weights are of no FCOS that is known ({', '.join(SOURCES)}): "
            f"{listed(list(weights))}. --from names the source of a file of which names have "
            "changed. Weights of a backbone alone need --config-file, the detector's."
        )
    return found


def _rename(source: Source, weights: Weights) -> tuple[Weights, list[str], list[str]]:
    """Weights under our names; names that have none; what is to be said of them."""
    renamed: Weights = {}
    left_over: list[str] = []
    dead: dict[str, list[str]] = {}
    for name, value in weights.items():
        reason = next((why for x, why in source.dead.items() if re.fullmatch(x, name)), None)
        ours = source.keys.to_ours(name)
        if reason is not None:
            dead.setdefault(reason, []).append(name)
        elif ours is None or ours in renamed:
            left_over.append(name)
        else:
            renamed[ours] = value
    notes = [f"left out: {listed(names, 2)}: {reason}" for reason, names in dead.items()]
    return source.to_ours(renamed), left_over, notes + source.remark(renamed)


def _read(source: Source, renamed: Weights, left_over: list[str]) -> Settings:
    try:
        told = read_architecture({name: x.shape for name, x in renamed.items()})
    except (InputError, IndexError, KeyError, ZeroDivisionError) as error:
        # Shapes that are none of a model's make reading them fail anywhere.
        reason = str(error) if isinstance(error, InputError) else f"a weight is missing: {error}."
        rest = f" No place for: {listed(left_over, _MOST_LISTED)}." if left_over else ""
        hint = " With --config-file, its config, it is taken as it is." if source is OWN else ""
        raise InputError(f"taken for {source.title}, {reason}{rest}{hint}") from error
    if source.has_equal_towers:
        towers = ("MODEL.FCOS.NUM_CLS_CONVS", "MODEL.FCOS.NUM_BOX_CONVS")
        told |= dict.fromkeys(towers, max(told[tower] for tower in towers))
    return {**told, **source.facts}


def _drop_unfit_names(told: Settings) -> list[str]:
    """Names of the classes, where they are not those of the class layer; what is said of them."""
    names, num_classes = told.get("FCOS_TRAIN.CLASS_NAMES", []), told["MODEL.FCOS.NUM_CLASSES"]
    if len(names) in (0, num_classes):
        return []
    del told["FCOS_TRAIN.CLASS_NAMES"]
    return [
        f"names of the classes left out: the file has {len(names)} ({listed(names, 3)}), but the "
        f"class layer {num_classes} rows. --opts FCOS_TRAIN.CLASS_NAMES \"['a', ...]\" sets them"
    ]


def _choose(
    source: Source, told: Settings, weights: Weights, recipe: str | None, style: str | None
) -> tuple[Settings, Settings]:
    """What the flags choose, and the usual values of what nobody says."""
    usual_recipe = source.usual_recipe and source.usual_recipe(told, weights)
    usual_style = source.usual_style and source.usual_style(told)
    chosen: Settings = {}
    assumed: Settings = {}
    for flag, value, usual, sets in (
        ("--recipe", recipe, usual_recipe, RECIPES),
        ("--backbone-style", style, usual_style, STYLES),
    ):
        if value is not None and usual is None:
            raise InputError(f"{flag} is no question with {source.title}: leave it out.")
        if value is not None and value not in sets:
            raise InputError(f"{flag} {value!r} must be one of {', '.join(sets)}.")
        if value is not None:
            chosen |= sets[value]
        elif usual is not None:
            assumed |= sets[usual]
    assumed |= source.assume(told, recipe or usual_recipe, style or usual_style)
    # An octave a level, as all recipes have it.
    assumed["MODEL.FCOS.SIZES_OF_INTEREST"] = [
        8 * 2 ** int(level.removeprefix("p")) for level in told["MODEL.FCOS.IN_FEATURES"][:-1]
    ]
    if told["MODEL.FCOS.NUM_CLASSES"] == COCO_SETTINGS["MODEL.FCOS.NUM_CLASSES"]:
        assumed |= {key: COCO_SETTINGS[key] for key in ("DATASETS.TRAIN", "DATASETS.TEST")}
    return chosen, {key: x for key, x in assumed.items() if key not in {**told, **chosen}}


def _build_cfg(settings: Settings, opts: Sequence[str]) -> CfgNode:
    cfg = new_cfg()
    cfg.VERSION = 2
    cfg.merge_from_list([x for pair in settings.items() for x in pair])
    override_config(cfg, opts)
    check_config(cfg)
    return cfg


def expected_shapes(cfg: CfgNode) -> dict[str, torch.Size]:
    """Names and shapes of the weights of the model of a config; none is made."""
    with torch.device("meta"):
        model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    # What losses remember of batches is no weight.
    return {k: x.shape for k, x in model.state_dict().items() if not k.startswith("losses.")}


def _fit(
    source: Source, weights: Weights, left_over: list[str], cfg: CfgNode, may_miss: set[str]
) -> tuple[Weights, list[str]]:
    """The weights, if they are those of the model; with initial ones for what may be missing."""
    expected = expected_shapes(cfg)
    missing = {name: source.keys.to_theirs(name) for name in expected if name not in weights}
    filled = [name for name, theirs in missing.items() if {name, theirs} & may_miss]
    _raise_if_unfit(
        source,
        weights,
        left_over,
        expected,
        {name: theirs for name, theirs in missing.items() if name not in filled},
    )
    needless = may_miss - {x for name in filled for x in (name, missing[name])}
    if needless:
        raise InputError(f"--allow-missing names what is not missing: {listed(sorted(needless))}.")
    if not filled:
        return {name: weights[name] for name in expected}, []
    initial = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).state_dict()
    complete = {name: weights[name] if name in weights else initial[name] for name in expected}
    return complete, [f"missing, at its initial values: {name}" for name in filled]


def _raise_if_unfit(
    source: Source,
    weights: Weights,
    left_over: list[str],
    expected: Mapping[str, torch.Size],
    missing: Mapping[str, str | None],
) -> None:
    without_place = [
        f"{name} ({source.keys.to_theirs(name)})" for name in weights if name not in expected
    ]
    misshapen = [
        f"{source.keys.to_theirs(name) or name} {tuple(x.shape)}, not {tuple(expected[name])}"
        for name, x in weights.items()
        if name in expected and x.shape != expected[name]
    ]
    problems = [
        f"\n  {title}: {listed(names, _MOST_LISTED)}"
        for title, names in (
            ("left over", left_over + without_place),
            ("missing", [f"{name} ({theirs})" for name, theirs in missing.items()]),
            ("of another shape", misshapen),
        )
        if names
    ]
    if problems:
        raise InputError(
            f"taken for {source.title}, its weights are not those of the model that they describe."
            + "".join(problems)
        )
