"""Reading a config file and overrides, with errors that say which key and why."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from .config import add_fcos_config, add_train_config
from .config_rules import CONFIG_RULES, check_value
from .errors import InputError, nearest

__all__ = [
    "keys_set_by",
    "load_config",
    "override_config",
    "parse_overrides",
    "trained_class_names",
]


def load_config(config_file: str, opts: Sequence[str]) -> CfgNode:
    """
    detectron2's defaults and ours, then the file, then the overrides. What is checked is that keys
    are known and types fit; for the rest see :mod:`.config_rules`.

    Args:
        config_file (str): path of a YAML file; its tags cannot run code, as detectron2's can.
        opts (list[str]): see :func:`parse_overrides`.

    Raises:
        InputError: no such file, not YAML, an unknown key (with the nearest), a wrong type.
    """
    cfg = get_cfg()
    add_fcos_config(cfg)
    add_train_config(cfg)
    where = f"The config file {config_file}"
    content = _read_yaml(config_file)
    try:
        _check_keys(content, cfg)
        _merge(cfg, content, lambda: cfg.merge_from_file(config_file, allow_unsafe=False))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    override_config(cfg, opts)
    return cfg


def override_config(cfg: CfgNode, opts: Sequence[str]) -> None:
    """
    Set keys of a config.

    Args:
        cfg (CfgNode): changed in place.
        opts (list[str]): see :func:`parse_overrides`.

    Raises:
        InputError: an unknown key (with the nearest), a key without a value, a wrong type.
    """
    for key, text in parse_overrides(opts):
        _override(cfg, key, text)


def keys_set_by(config_file: str, opts: Sequence[str]) -> set[str]:
    """
    Full names of the keys that a file, what its _BASE_ has, or overrides give a value: those of
    which :func:`load_config` has not left detectron2's default or ours.

    Args:
        config_file, opts: see :func:`load_config`, which has taken them.
    """
    content = CfgNode(_read_yaml(config_file))
    return {*_all_keys(content), *(key for key, _ in parse_overrides(opts))}


def trained_class_names(cfg: CfgNode) -> list[str]:
    """The class names that a training has written into its config; empty in all other configs."""
    return list(cfg.FCOS_TRAIN.CLASS_NAMES)


def parse_overrides(opts: Sequence[str]) -> list[tuple[str, str]]:
    """
    Split overrides into keys and values.

    Args:
        opts (list[str]): KEY=VALUE, or KEY and VALUE; both may be mixed.

    Raises:
        InputError: a key without a value, or a flag among the overrides.
    """
    pairs = []
    tokens = iter(opts)
    for token in tokens:
        if token.startswith("-"):
            raise InputError(f"The flag {token} must come before the overrides of config keys.")
        key, equals, value = token.partition("=")
        text = value if equals else next(tokens, None)
        if text is None:
            raise InputError(f"Overrides are KEY=VALUE or KEY VALUE, but {key!r} has no value.")
        pairs.append((key, text))
    return pairs


def _read_yaml(config_file: str) -> dict[str, Any]:
    """The file merged into what its _BASE_ has."""
    path = Path(config_file)
    if not path.is_file():
        raise InputError(
            f"The config file {path.absolute()} does not exist, or is no file. Those of this "
            "project are under configs/, such as configs/fcos_R_50_FPN_1x.yaml."
        )
    where = f"The config file {config_file}"
    try:
        if not isinstance(yaml.safe_load(path.read_bytes()), dict):
            raise InputError(f"{where} must hold keys and values, as in SOLVER:\\n  MAX_ITER: 100")
        content = CfgNode.load_yaml_with_base(config_file, allow_unsafe=False)
    except RecursionError as error:
        raise InputError(f"{where}: _BASE_ leads back to the file itself.") from error
    except (yaml.YAMLError, OSError, AttributeError, AssertionError, TypeError) as error:
        raise InputError(f"{where} or its _BASE_ cannot be read: {error}") from error
    assert isinstance(content, dict)
    return content


def _check_keys(content: Mapping[str, Any], cfg: CfgNode, prefix: str = "") -> None:
    """Every key of a file must be one of the config, and sections must be sections."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        if name not in cfg:
            raise InputError(_unknown(key, cfg, prefix))
        if isinstance(cfg[name], CfgNode):
            if not isinstance(value, Mapping):
                raise InputError(_is_section(key, cfg[name]))
            _check_keys(value, cfg[name], f"{key}.")


def _override(cfg: CfgNode, key: str, text: str) -> None:
    *path, name = key.split(".")
    node: Any = cfg
    for i, part in enumerate([*path, name]):
        if not isinstance(node, CfgNode) or part not in node:
            inner = ".".join(key.split(".")[:i])
            raise InputError(_unknown(key, node, f"{inner}." if inner else "", cfg))
        node = node[part]
    if isinstance(node, CfgNode):
        raise InputError(_is_section(key, node))
    value = _literal(text)
    if isinstance(node, float) and type(value) is int:
        text, value = f"{value}.0", float(value)  # YACS takes no whole number for a float
    _merge(cfg, {key: value}, lambda: cfg.merge_from_list([key, text]))


def _merge(cfg: CfgNode, content: Mapping[str, Any], merge: Any) -> None:
    """YACS's merging, whose errors of type become those of our rules where there is one."""
    try:
        merge()
    except (AssertionError, KeyError, ValueError) as error:
        text = str(error)
        found = re.search(r"config key: ([\w.]+)", text)
        key = found[1] if found else ""
        if key in CONFIG_RULES:
            value = content[key] if key in content else reduce(getitem, key.split("."), content)
            check_value(key, _literal(value) if isinstance(value, str) else value)
        if "float'> vs. <class 'int'>" in text:
            text += ". Write it with a point, as in 1.0"
        raise InputError(f"{text}.") from error


def _literal(text: str) -> Any:
    """The Python value that an override stands for, as YACS reads it."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _unknown(key: str, node: Any, prefix: str, root: CfgNode | None = None) -> str:
    known = list(_all_keys(node, prefix)) if isinstance(node, CfgNode) else []
    return f"there is no config key {key}. {nearest(key, known or list(_all_keys(root or node)))}"


def _is_section(key: str, node: CfgNode) -> str:
    return f"{key} is a section of keys, such as {key}.{next(iter(node))}, and no value itself."


def _all_keys(cfg: CfgNode, prefix: str = "") -> Iterator[str]:
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from _all_keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name
