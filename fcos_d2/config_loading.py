"""Reading a YAML config file and overrides, with errors that name the key and the reason."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from .config import new_cfg
from .errors import Collector, InputError, nearest

__all__ = [
    "configs_next_to",
    "keys_set_by",
    "load_config",
    "override_config",
    "parse_overrides",
]

_KINDS = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    tuple: "a list",
}


def configs_next_to(weights: str | Path) -> list[Path]:
    """
    Return the paths where the config of weights may be, the best one first.

    ``fcos-d2 convert`` writes x.yaml next to x.pth, and training writes config.yaml.

    Args:
        weights (str or Path): The weights file.
    """
    return [Path(weights).with_suffix(".yaml"), Path(weights).with_name("config.yaml")]


def load_config(
    config_file: str, opts: Sequence[str], faults: list[InputError] | None = None
) -> CfgNode:
    """
    Load the defaults of detectron2 and this project, then a config file, then overrides.

    This function checks that keys are known and that values have the right type. All other checks
    are in ``config_checks``.

    Args:
        config_file (str): Path of a YAML file. Unlike in detectron2, its tags cannot run code.
        opts (list[str]): See ``parse_overrides``.
        faults (list[InputError]): If given, unknown keys and wrong types are appended to this list
            instead of being raised, and those keys keep their defaults.

    Raises:
        InputError: If the file does not exist or is not YAML, if keys are unknown (the message
            names the most similar key), or if values have wrong types.
    """
    cfg = new_cfg()
    collect = Collector()
    for key, value in _find_values(_read_yaml(config_file)):
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
        cfg (CfgNode): The config, which is changed in place.
        opts (list[str]): See ``parse_overrides``.

    Raises:
        InputError: If keys are unknown (the message names the most similar key), a key has no
            value, or values have wrong types.
    """
    collect = Collector()
    for key, text in parse_overrides(opts):
        collect(_set, cfg, key, _parse_value(text))
    collect.check()


def keys_set_by(config_file: str, opts: Sequence[str]) -> set[str]:
    """
    Find the full names of the keys that a config file, its _BASE_ or overrides set.

    Args:
        config_file (str): A file that ``load_config`` has loaded.
        opts (list[str]): Its overrides.
    """
    return {key for key, _ in (*_find_values(_read_yaml(config_file)), *parse_overrides(opts))}


def parse_overrides(opts: Sequence[str]) -> list[tuple[str, str]]:
    """
    Split overrides into keys and values.

    Args:
        opts (list[str]): KEY=VALUE, or KEY followed by VALUE; both forms may be mixed.

    Raises:
        InputError: If a key has no value, or there is a flag among the overrides.
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
    """Read a config file, merged into the content of its _BASE_."""
    path = Path(config_file)
    if not path.is_file():
        raise InputError(
            f"The config file {path.absolute()} does not exist or is not a file. The configs of "
            "this project are in configs/, such as configs/fcos_R_50_FPN_1x.yaml.",
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
    """Set an existing key to a value of the same type as its default."""
    node: Any = cfg
    for i, part in enumerate(path := key.split(".")):
        if not isinstance(node, CfgNode) or part not in node:
            known = list(_all_keys(node, "".join(f"{x}." for x in path[:i])))
            hint = nearest(key, known or list(_all_keys(cfg)))
            raise InputError(f"{where}There is no config key {key}. {hint}", key=key, value=value)
        node = node[part]
    if isinstance(node, CfgNode):
        text = f"{where}{key} is a section of keys, such as {key}.{next(iter(node))}, not a value."
        raise InputError(text, key=key, value=value)
    if isinstance(node, float) and type(value) is int:
        value = float(value)  # YACS does not accept an integer for a float
    kind = _KINDS.get(type(node), "of another type")
    example = "" if isinstance(node, bool) else f", such as {node!r}"
    wrong = f"{where}{key} = {value!r} must be {kind}{example}."
    if isinstance(node, (list, tuple)) and isinstance(value, str):
        wrong += " A list with one element needs a comma: ('x',)."
    if value is None and node is not None:  # YACS accepts None for any key
        raise InputError(wrong, key=key, value=value)
    try:
        cfg.merge_from_list([key, value])
    except (AssertionError, KeyError, ValueError) as error:
        raise InputError(wrong, key=key, value=value) from error


def _parse_value(text: str) -> Any:
    """Convert the text of an override to a Python value, as YACS does."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _find_values(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full keys and values in the content of a file, but no empty sections."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _find_values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _all_keys(node: object, prefix: str = "") -> Iterator[str]:
    """Return the full keys of all values in a section; nothing if ``node`` is not a section."""
    values = _find_values(node, prefix) if isinstance(node, CfgNode) else ()
    return (key for key, _ in values)
