"""Flags that several subcommands share, for config files and overrides of their keys."""

import argparse
import os
import re
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path

from ..config import get_config_file, new_cfg
from ..config_loading import configs_next_to
from ..errors import InputError

__all__ = [
    "add_config_flag",
    "add_opts_flag",
    "add_weights_flags",
    "config_for_weights",
    "parse_arguments",
    "parse_score",
    "resolve_config_file",
    "split_overrides",
]

_KEY = r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)*"


def add_config_flag(parser: argparse.ArgumentParser, help: str) -> None:
    """Add --config-file, which is a path or the name of a config that comes with the project."""
    parser.add_argument("--config-file", type=resolve_config_file, metavar="FILE", help=help)


def add_weights_flags(
    parser: argparse.ArgumentParser,
    *,
    required: bool = False,
    weights_help: str = "weights file, such as output/model_final.pth",
) -> None:
    """Add --weights, and --config-file for the config of these weights."""
    parser.add_argument("--weights", required=required, metavar="FILE", help=weights_help)
    config_help = "default: the .yaml with the name of the weights, or config.yaml next to them"
    add_config_flag(parser, config_help)


def add_opts_flag(parser: argparse.ArgumentParser) -> None:
    """
    Add --opts, so that the help shows it.

    ``split_overrides`` removes the flag and its values before the parser reads the command line.
    """
    parser.add_argument(
        "--opts",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="override config keys, such as MODEL.DEVICE=cpu or INPUT.MIN_SIZE_TEST 512; they may "
        "be anywhere in the command, with or without --opts",
    )


def parse_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> argparse.Namespace:
    """
    Parse a command line.

    Args:
        parser (ArgumentParser): The parser of the command.
        arguments (Sequence[str]): The command line.

    Returns:
        Namespace: The parsed arguments. ``opts`` contains the overrides from everywhere in the
        command line.

    Raises:
        InputError: If there are overrides but the subcommand has no config, if --opts has no
            override, or if a flag is between two images.
    """
    rest, overrides = split_overrides(arguments, _flags_with_value(parser))
    args, unknown = parser.parse_known_args(rest)
    takes_images = isinstance(getattr(args, "images", None), list)
    if unknown and takes_images and not any(x.startswith("-") for x in unknown):
        raise InputError(
            f"{' '.join(unknown)}: images are named in two places of the command. Name all of them "
            "together, before or after the flags."
        )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if hasattr(args, "opts"):
        args.opts = [*overrides, *args.opts]
    elif overrides:
        text = f"This subcommand has no config to override, but the command has {overrides[0]}."
        raise InputError(text, key=overrides[0].partition("=")[0])
    return args


def _flags_with_value(parser: argparse.ArgumentParser) -> set[str]:
    """Return the flags that take a value, of a parser and of its subcommands."""
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
    Split a command line into overrides of config keys and other arguments.

    An override is KEY=VALUE, or KEY followed by VALUE. KEY is a name in upper case; after --opts,
    it may be any name. The name of an existing file, such as a photo DSC_0001.JPG, and the value of
    a flag are not keys.

    Args:
        arguments (Sequence[str]): The command line.
        flags_with_value (Collection[str]): The flags that are followed by their value.

    Returns:
        tuple[list[str], list[str]]: The other arguments, and the overrides as KEY=VALUE.

    Raises:
        InputError: If --opts has no override.
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
                following = tokens[0] if tokens else "nothing"
                text = f"--opts takes KEY=VALUE, such as MODEL.DEVICE=cpu, not {following}."
                raise InputError(text)
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
    """Return whether a token is KEY=VALUE or KEY."""
    key, equals, _ = token.partition("=")
    if os.path.exists(token) or token.startswith("-"):
        return False
    if equals:
        return any_name or re.fullmatch(_KEY, key) is not None
    is_key = re.fullmatch(_KEY, key) is not None
    return is_key and (any_name or key.partition(".")[0] in new_cfg())


def resolve_config_file(name: str) -> str:
    """
    Return the path of a config file.

    Args:
        name (str): The path of a file, or the name of a config that comes with the project, such
            as ``fcos_R_50_FPN_1x.yaml`` or ``configs/fcos_R_50_FPN_1x.yaml``. A file has priority.

    Returns:
        str: The path, or ``name`` itself if it is neither; loading it then raises an error.
    """
    if Path(name).exists():
        return name
    try:
        return get_config_file(name.removeprefix("configs/"))
    except FileNotFoundError:
        return name


def config_for_weights(weights: str | Path, config_file: str | None) -> str:
    """
    Find the config file of a model, and print its path if it is not given.

    Args:
        weights (str or Path): The weights file of the model.
        config_file (str): The config file that the user has given, if any. It has priority over
            the files next to the weights.

    Raises:
        InputError: If no weights are named, if there is no config file next to them, or if it is a
            LazyConfig.
    """
    if not weights:
        raise InputError("--weights is empty. Name a checkpoint, such as output/model_final.pth.")
    if config_file:
        return config_file
    candidates = configs_next_to(weights)
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        raise InputError(
            f"There is no {' or '.join(x.name for x in candidates)} next to {weights}. Name the "
            "config of the model with --config-file."
        )
    if "_target_:" in found.read_text(errors="replace"):
        raise InputError(
            f"{found} was written for a LazyConfig, which only `fcos-d2 evaluate` can read. Use "
            "that command, and name the .py file of the LazyConfig with --config-file. (Its model "
            "is exported in Python: docs/export.md.)"
        )
    print(f"Config, found next to the weights: {found}")
    return str(found)


def parse_score(text: str) -> float:
    """Parse a score threshold from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value
