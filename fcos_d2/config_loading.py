"""Reading a config file and overrides, with errors that say which key and why."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from .config import new_cfg
from .errors import Collector, InputError, nearest

__all__ = [
    "keys_set_by",
    "load_config",
    "override_config",
    "parse_overrides",
]

_KINDS = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a text",
    list: "a list",
    tuple: "a list",
}


def load_config(
    config_file: str, opts: Sequence[str], faults: list[InputError] | None = None
) -> CfgNode:
    """
    Load detectron2's defaults and ours, then the file, then the overrides.

    That keys are known and types fit is checked here; for the rest see ``config_checks``.

    Args:
        config_file (str): path of a YAML file; its tags cannot run code, as detectron2's can.
        opts (list[str]): see ``parse_overrides``.
        faults (list[InputError]): gets unknown keys and wrong types, for those who report more
            faults with them; keys then keep their values. None: they are raised.

    Raises:
        InputError: no such file, not YAML, unknown keys (each with the nearest), wrong types.
    """
    cfg = new_cfg()
    collect = Collector()
    for key, value in _leaves(_read_yaml(config_file)):
        collect(_set, cfg, key, value, f"The config file {config_file}: ")
    collect(override_config, cfg, opts)
    if faults is None:
        collect.check()
    else:
        faults += collect.faults
    return cfg


def override_config(cfg: CfgNode, opts: Sequence[str]) -> None:
    """
    Set keys of a config.

    Args:
        cfg (CfgNode): changed in place.
        opts (list[str]): see ``parse_overrides``.

    Raises:
        InputError: unknown keys (each with the nearest), a key without a value, wrong types.
    """
    collect = Collector()
    for key, text in parse_overrides(opts):
        collect(_set, cfg, key, _literal(text))
    collect.check()


def keys_set_by(config_file: str, opts: Sequence[str]) -> set[str]:
    """
    Find the full names of the keys that a file, what its _BASE_ has, or overrides give a value.

    Args:
        config_file, opts: see ``load_config``, which has taken them.
    """
    return {key for key, _ in (*_leaves(_read_yaml(config_file)), *parse_overrides(opts))}


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
        fault = None
        if token.startswith("-"):
            fault = f"The flag {token} must come before the overrides of config keys."
        key, equals, value = token.partition("=")
        text = value if equals else next(tokens, None)
        if text is None:
            fault = fault or f"Overrides are KEY=VALUE or KEY VALUE, but {key!r} has no value."
        if fault or text is None:
            raise InputError(str(fault), key=key)
        pairs.append((key, text))
    return pairs


def _read_yaml(config_file: str) -> dict[str, Any]:
    """The file merged into what its _BASE_ has."""
    path = Path(config_file)
    if not path.is_file():
        raise InputError(
            f"The config file {path.absolute()} does not exist, or is not a file. Those of this "
            "project are under configs/, such as configs/fcos_R_50_FPN_1x.yaml.",
            file=config_file,
        )
    where = f"The config file {config_file}"
    try:
        if not isinstance(yaml.safe_load(path.read_bytes()), dict):
            text = f"{where} must hold keys and values, as in SOLVER:\\n  MAX_ITER: 100"
            raise InputError(text, file=config_file)
        content = CfgNode.load_yaml_with_base(config_file, allow_unsafe=False)
    except RecursionError as error:
        text = f"{where}: _BASE_ leads back to the file itself."
        raise InputError(text, file=config_file) from error
    except (yaml.YAMLError, OSError, AttributeError, AssertionError, TypeError) as error:
        text = f"{where} or its _BASE_ cannot be read: {error}"
        raise InputError(text, file=config_file) from error
    assert isinstance(content, dict)
    return content


def _set(cfg: CfgNode, key: str, value: Any, where: str = "") -> None:
    """Set one key, which must be there, to a value of the type of its default."""
    node: Any = cfg
    for i, part in enumerate(path := key.split(".")):
        if not isinstance(node, CfgNode) or part not in node:
            known = list(_all_keys(node, "".join(f"{x}." for x in path[:i])))
            hint = nearest(key, known or list(_all_keys(cfg)))
            raise InputError(f"{where}there is no config key {key}. {hint}", key=key, value=value)
        node = node[part]
    if isinstance(node, CfgNode):
        text = f"{where}{key} is a section of keys, such as {key}.{next(iter(node))}, not a value."
        raise InputError(text, key=key, value=value)
    if isinstance(node, float) and type(value) is int:
        value = float(value)  # YACS takes no integer for a float
    kind = _KINDS.get(type(node), "of another type")
    wrong = f"{where}{key} = {value!r} must be {kind}, such as {node!r}."
    if isinstance(node, (list, tuple)) and isinstance(value, str):
        wrong += " A list of one has a comma: ('x',)."
    if value is None and node is not None:  # which YACS takes for any key
        raise InputError(wrong, key=key, value=value)
    try:
        cfg.merge_from_list([key, value])
    except (AssertionError, KeyError, ValueError) as error:
        raise InputError(wrong, key=key, value=value) from error


def _literal(text: str) -> Any:
    """The Python value that an override stands for, as YACS reads it."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full keys and values of a file's content; an empty section has none."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _all_keys(node: Any, prefix: str = "") -> Iterator[str]:
    return (key for key, _ in _leaves(node, prefix)) if isinstance(node, CfgNode) else iter(())
