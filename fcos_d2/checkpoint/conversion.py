"""Conversion of weights of another project, with the config that reproduces its outputs."""

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
from .formats import RECIPES, SOURCES, STYLES, Settings, Source, Weights, recognize_source
from .formats.own import OWN
from .safe_reading import name_weights_file, read_checkpoint
from .saved_weights import find_weights

__all__ = ["Converted", "convert_content", "expected_shapes", "load_any"]

_MOST_LISTED = 50  # names of one kind in an error message


class Converted(NamedTuple):
    """
    Weights of another project after the conversion to this one.

    Attributes:
        weights (dict[str, Tensor]): All weights of the model, under the names of this project.
        cfg (CfgNode): The config of the model, for ``build_model``.
        keys (list[str]): The config keys that were set.
        assumed (dict[str, Any]): Config keys and values that could not be read from the file.
        source (str): A name in ``formats.SOURCES``.
        notes (list[str]): Lines for the user about what was selected and what was dropped.
        differences (tuple[str, ...]): How the outputs differ from those of the other project.
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
    Read FCOS weights of any project in ``formats.SOURCES``.

    Args:
        path (str): The file. No code in it is executed.
        **choices: See ``convert_content``.

    Raises:
        InputError: If the file cannot be read, or ``convert_content`` cannot use it.
    """
    content = read_checkpoint(path)
    with name_weights_file(path):
        return convert_content(content, **choices)


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
    Convert the content of a checkpoint of another project.

    Args:
        content (dict): The result of ``safe_reading.read_checkpoint``.
        source (str): The name of the project. By default, it is recognized by the names of the
            weights.
        recipe (str): "improved" or "iccv": box activation, tower of center-ness, center sampling
            and box loss. Only for sources that have both; by default, the usual one of the source.
        backbone_style (str): "caffe" or "pytorch": place of the stride, order of the channels and
            pixel statistics. Only for mmdet; by default, the usual one for the network.
        coco80 (bool): Keep only COCO's 80 classes of torchvision's class layer, which has 91 rows.
        without_background (bool): Remove the first row of the class layer. Models that were trained
            on own data with torchvision have one for the background.
        allow_missing (Collection[str]): Weights that may be missing in the file, by our names or
            the names in the file. They get initial values.
        opts (list[str]): KEY, VALUE, ... of the config. They have priority over all other settings.

    Raises:
        InputError: If the project is not known, or the weights do not fit the model that they
            describe. The message lists the weights that do not fit.
    """
    saved = find_weights(content)
    project = _find_source(source, saved.weights)
    found_by = "recognized by their names" if source is None else "as --from says"
    renamed, left_over, notes = _rename(project, saved.weights)
    detected = _detect_settings(project, renamed, left_over)
    detected |= project.read_settings(content, saved.weights)
    if coco80 and without_background:
        raise InputError(
            "--coco80 and --drop-background-row exclude each other: --coco80 already removes the "
            "background's row."
        )
    if coco80:
        renamed = keep_coco_rows(renamed)
        detected |= COCO_SETTINGS
    elif without_background:
        renamed = drop_background_row(renamed)
        detected["MODEL.FCOS.NUM_CLASSES"] -= 1
    notes += _drop_unfit_class_names(detected)
    by_flags, assumed = _complete_settings(project, detected, saved.weights, recipe, backbone_style)
    settings = detected | by_flags
    cfg = _build_cfg({**assumed, **settings}, opts)
    weights, missing_notes = _fit_weights(project, renamed, left_over, cfg, set(allow_missing))
    opts_keys = [key for key, _ in parse_overrides(opts)]
    return Converted(
        weights=weights,
        cfg=cfg,
        keys=list(dict.fromkeys([*settings, *assumed, *opts_keys])),
        assumed={key: x for key, x in assumed.items() if key not in opts_keys},
        source=project.name,
        notes=[
            f"weights of {project.title}, {found_by}",
            *saved.notes,
            *notes,
            *missing_notes,
            describe_model(cfg),
        ],
        differences=project.differences,
    )


def _find_source(name: str | None, weights: Weights) -> Source:
    """Return the source of this name; if it is None, recognize the source by its weights."""
    if name is not None:
        if name not in SOURCES:
            raise InputError(f"there is no source {name!r}; there are: {', '.join(SOURCES)}.")
        return SOURCES[name]
    source = recognize_source(weights)
    if source is None:
        raise InputError(
            f"its weights are not those of a known FCOS ({', '.join(SOURCES)}): "
            f"{listed(list(weights))}. If it is one of these with changed names, name it by "
            "--from. If the file has only a backbone, give the config of a detector by "
            "--config-file."
        )
    return source


def _rename(source: Source, weights: Weights) -> tuple[Weights, list[str], list[str]]:
    """
    Rename weights to our names.

    Returns:
        tuple[Weights, list[str], list[str]]: The weights under our names; the names without a name
        of ours; and lines for the user.
    """
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
    return source.to_ours(renamed), left_over, notes + source.describe(renamed)


def _detect_settings(source: Source, renamed: Weights, left_over: list[str]) -> Settings:
    """
    Detect the architecture from the weights, and add the fixed settings of the source.

    Raises:
        InputError: If the weights do not describe a model.
    """
    try:
        settings = read_architecture({name: x.shape for name, x in renamed.items()})
    except (InputError, IndexError, KeyError, ZeroDivisionError) as error:
        # Reading shapes that do not belong to a model can fail in any of these ways.
        reason = "the shapes of the weights are not those of an FCOS."
        if isinstance(error, InputError):
            reason = str(error)
        elif isinstance(error, KeyError):
            reason = f"a weight is missing: {error}."
        rest = f" No place for: {listed(left_over, _MOST_LISTED)}." if left_over else ""
        hint = ""
        if source is OWN:
            hint = " Any model of this project can be read with its config, by --config-file."
        raise InputError(f"read as weights of {source.title}: {reason}{rest}{hint}") from error
    if source.has_equal_towers:
        towers = ("MODEL.FCOS.NUM_CLS_CONVS", "MODEL.FCOS.NUM_BOX_CONVS")
        settings |= dict.fromkeys(towers, max(settings[tower] for tower in towers))
    return {**settings, **source.fixed_settings}


def _drop_unfit_class_names(settings: Settings) -> list[str]:
    """Remove class names that do not fit the class layer, and return lines for the user."""
    names = settings.get("FCOS_TRAIN.CLASS_NAMES", [])
    num_classes = settings["MODEL.FCOS.NUM_CLASSES"]
    if len(names) in (0, num_classes):
        return []
    del settings["FCOS_TRAIN.CLASS_NAMES"]
    return [
        f"names of the classes left out: the file has {len(names)} ({listed(names, 3)}), but the "
        f"class layer has {num_classes} rows. Set them by "
        "--opts FCOS_TRAIN.CLASS_NAMES \"['a', ...]\""
    ]


def _complete_settings(
    source: Source, detected: Settings, weights: Weights, recipe: str | None, style: str | None
) -> tuple[Settings, Settings]:
    """
    Select the settings that cannot be detected.

    Returns:
        tuple[Settings, Settings]: The settings of the flags ``--recipe`` and ``--backbone-style``,
        and the default values of those that are neither detected nor set by a flag.
    """
    default_recipe = source.default_recipe and source.default_recipe(detected, weights)
    default_style = source.default_style and source.default_style(detected)
    by_flags: Settings = {}
    assumed: Settings = {}
    for flag, value, default, settings_by_name in (
        ("--recipe", recipe, default_recipe, RECIPES),
        ("--backbone-style", style, default_style, STYLES),
    ):
        if value is not None and default is None:
            raise InputError(f"{flag} has no meaning for {source.title}: leave it out.")
        if value is not None and value not in settings_by_name:
            raise InputError(f"{flag} {value!r} must be one of {', '.join(settings_by_name)}.")
        if value is not None:
            by_flags |= settings_by_name[value]
        elif default is not None:
            assumed |= settings_by_name[default]
    assumed |= source.default_settings(detected, recipe or default_recipe, style or default_style)
    # All recipes double the sizes from level to level.
    assumed["MODEL.FCOS.SIZES_OF_INTEREST"] = [
        8 * 2 ** int(level.removeprefix("p")) for level in detected["MODEL.FCOS.IN_FEATURES"][:-1]
    ]
    if detected["MODEL.FCOS.NUM_CLASSES"] == COCO_SETTINGS["MODEL.FCOS.NUM_CLASSES"]:
        assumed |= {key: COCO_SETTINGS[key] for key in ("DATASETS.TRAIN", "DATASETS.TEST")}
    known = detected.keys() | by_flags.keys()
    return by_flags, {key: x for key, x in assumed.items() if key not in known}


def _build_cfg(settings: Settings, opts: Sequence[str]) -> CfgNode:
    """Build and check the config with these settings, overridden by ``opts``."""
    cfg = new_cfg()
    cfg.VERSION = 2
    cfg.merge_from_list([x for pair in settings.items() for x in pair])
    override_config(cfg, opts)
    check_config(cfg)
    return cfg


def expected_shapes(cfg: CfgNode) -> dict[str, torch.Size]:
    """Return names and shapes of the weights of a config's model, without allocating them."""
    with torch.device("meta"):
        model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    # The statistics that losses keep between batches are not weights.
    return {k: x.shape for k, x in model.state_dict().items() if not k.startswith("losses.")}


def _fit_weights(
    source: Source, weights: Weights, left_over: list[str], cfg: CfgNode, allow_missing: set[str]
) -> tuple[Weights, list[str]]:
    """
    Check that the weights are those of the model, and add the allowed missing ones.

    Returns:
        tuple[Weights, list[str]]: All weights of the model, and lines for the user.

    Raises:
        InputError: If weights are left over or missing, or have another shape.
    """
    expected = expected_shapes(cfg)
    missing = {name: source.keys.to_theirs(name) for name in expected if name not in weights}
    filled = [name for name, theirs in missing.items() if {name, theirs} & allow_missing]
    _check_fit(
        source,
        weights,
        left_over,
        expected,
        {name: theirs for name, theirs in missing.items() if name not in filled},
    )
    not_missing = allow_missing - {x for name in filled for x in (name, missing[name])}
    if not_missing:
        raise InputError(
            f"--allow-missing names weights that are not missing: {listed(sorted(not_missing))}."
        )
    if not filled:
        return {name: weights[name] for name in expected}, []
    initial = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).state_dict()
    complete = {name: weights[name] if name in weights else initial[name] for name in expected}
    return complete, [f"missing, set to initial values: {name}" for name in filled]


def _check_fit(
    source: Source,
    weights: Weights,
    left_over: list[str],
    expected: Mapping[str, torch.Size],
    missing: Mapping[str, str | None],
) -> None:
    """
    Raise an InputError that lists weights that are left over, missing or of another shape.

    Args:
        source (Source): The source, for its names.
        weights (dict[str, Tensor]): The weights under our names.
        left_over (list[str]): Names in the file without a name of ours.
        expected (dict[str, torch.Size]): Names and shapes of the model's weights.
        missing (dict[str, str]): Our name -> their name of each missing weight; None if they have
            no such weight.
    """
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
            f"read as weights of {source.title}, they do not fit the model that they describe."
            + "".join(problems)
        )
