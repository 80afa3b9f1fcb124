"""Flags that several verbs share: config files and overrides of their keys."""

import argparse
import os
import re
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ..config import get_config_file, new_cfg
from ..errors import InputError

__all__ = [
    "add_config_flag",
    "add_opts_flag",
    "config_for_weights",
    "parse_arguments",
    "parse_score",
    "resolve_config_file",
    "split_overrides",
]

_KEY = r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)*"


def add_config_flag(parser: argparse.ArgumentParser, help: str, *, required: bool = False) -> None:
    """Add --config-file: a path, or the name of a config that comes with the project."""
    parser.add_argument(
        "--config-file", type=resolve_config_file, metavar="FILE", help=help, required=required
    )


def add_opts_flag(parser: argparse.ArgumentParser) -> None:
    """Add --opts to the help; ``split_overrides`` takes it and its values out before."""
    parser.add_argument(
        "--opts",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="override config keys: MODEL.DEVICE=cpu INPUT.MIN_SIZE_TEST 512, anywhere, with or "
        "without --opts",
    )


def parse_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Any:
    """
    Parse the arguments of a verb; ``opts`` are its overrides, wherever they stand.

    Raises:
        InputError: overrides for a verb that reads no config, or --opts without one.
    """
    rest, overrides = split_overrides(arguments, _flags_with_value(parser))
    args = parser.parse_args(rest)
    if hasattr(args, "opts"):
        args.opts = [*overrides, *args.opts]
    elif overrides:
        raise InputError(f"There is no config here to override: {overrides[0]}", key=overrides[0])
    return args


def _flags_with_value(parser: argparse.ArgumentParser) -> set[str]:
    flags: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            flags.update(*map(_flags_with_value, action.choices.values()))
        elif action.nargs != 0:
            flags.update(action.option_strings)
    return flags


def split_overrides(
    arguments: Sequence[str], flags_with_value: Collection[str]
) -> tuple[list[str], list[str]]:
    """
    Split a command line into the rest and its overrides of config keys.

    An override is KEY=VALUE, or KEY and VALUE, where KEY is a name in upper case; behind --opts it
    may have any name. A file that exists, such as a photo DSC_0001.JPG, is not a key, nor is the
    value of a flag.

    Args:
        arguments (list[str]): of the command line.
        flags_with_value (set[str]): the flags whose next token is their value.

    Raises:
        InputError: --opts without an override.
    """
    rest: list[str] = []
    overrides: list[str] = []
    tokens = deque(arguments)
    after_opts = after_flag = False
    while tokens and tokens[0] != "--":
        token = tokens.popleft()
        if token == "--opts":
            after_opts = True
            if not tokens or not _is_override(tokens[0], any_name=True):
                given = tokens[0] if tokens else "nothing"
                raise InputError(f"--opts takes KEY=VALUE, such as MODEL.DEVICE=cpu, not {given}.")
        elif not after_flag and _is_override(token, any_name=after_opts):
            if "=" not in token and tokens and not tokens[0].startswith("--"):
                token += f"={tokens.popleft()}"
            overrides.append(token)
        else:
            rest.append(token)
            after_opts = False
        after_flag = token in flags_with_value and token != "--opts"
    return [*rest, *tokens], overrides


def _is_override(token: str, any_name: bool) -> bool:
    key, equals, _ = token.partition("=")
    if os.path.exists(token) or token.startswith("-"):
        return False
    if equals:
        return any_name or re.fullmatch(_KEY, key) is not None
    is_key = re.fullmatch(_KEY, key) is not None
    return is_key and (any_name or key.partition(".")[0] in new_cfg())


def resolve_config_file(name: str) -> str:
    """
    Path of a config file: ``name`` if there is such a file, else that of the project's config with
    this name (``fcos_R_50_FPN_1x.yaml``, ``configs/fcos_R_50_FPN_1x.yaml``). A name that is neither
    is returned as it is; loading it raises an error.
    """
    if Path(name).exists():
        return name
    try:
        return get_config_file(name.removeprefix("configs/"))
    except FileNotFoundError:
        return name


def config_for_weights(weights: str | Path, config_file: str | None) -> str:
    """
    The config file of a model: ``config_file`` if it is given, else the one next to the weights,
    which is printed. ``fcos-d2 convert`` writes x.yaml next to x.pth, a training config.yaml.

    Raises:
        InputError: there is none, or it is not a YAML config of this project.
    """
    if config_file:
        return config_file
    candidates = [Path(weights).with_suffix(".yaml"), Path(weights).with_name("config.yaml")]
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        raise InputError(
            f"There is no {' or '.join(x.name for x in candidates)} next to {weights}: give the "
            "model's config with --config-file."
        )
    if "_target_:" in found.read_text(errors="replace"):
        raise InputError(
            f"{found} was written for a LazyConfig, which only `fcos-d2 evaluate` takes: name its "
            ".py file there with --config-file."
        )
    print(f"Config, found next to the weights: {found}")
    return str(found)


def parse_score(text: str) -> float:
    """A score threshold from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value
