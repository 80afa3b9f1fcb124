"""Flags that several verbs share: config files and overrides of their keys."""

import argparse
import re
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from ..config import get_config_file
from ..errors import InputError

__all__ = [
    "add_config_flag",
    "add_opts_flag",
    "config_for_weights",
    "join_overrides",
    "parse_score",
    "resolve_config_file",
]

_KEY = r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)*"


def add_config_flag(parser: argparse.ArgumentParser, help: str, *, required: bool = False) -> None:
    """Add --config-file: a path, or the name of a config that comes with the project."""
    parser.add_argument(
        "--config-file", type=resolve_config_file, metavar="FILE", help=help, required=required
    )


def add_opts_flag(parser: argparse.ArgumentParser) -> None:
    """Add --opts, a list of KEY=VALUE; see :func:`join_overrides`."""
    parser.add_argument(
        "--opts",
        action="append",
        type=_check_override,
        default=[],
        metavar="KEY=VALUE",
        help="override config keys, such as --opts MODEL.DEVICE=cpu INPUT.MIN_SIZE_TEST 512",
    )


def _check_override(text: str) -> str:
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text} is not a KEY with a value: MODEL.DEVICE=cpu")
    return text


def join_overrides(arguments: Sequence[str]) -> list[str]:
    """
    Rewrite ``--opts A=1 B 2 image.jpg`` as ``--opts A=1 --opts B=2 image.jpg``, so that argparse
    takes only overrides for --opts.

    An override is KEY=VALUE, or KEY and VALUE where KEY is not an existing path: a photo
    DSC_0001.JPG is not a key.
    """
    joined: list[str] = []
    rest = deque(arguments)
    after_opts = False  # whether the next token may be an override
    while rest and rest[0] != "--":
        token = rest.popleft()
        if after_opts and _is_override(token):
            if "=" not in token and rest and not rest[0].startswith("--"):
                token += f"={rest.popleft()}"
            joined += ["--opts", token]
        elif token == "--opts" and rest and _is_override(rest[0]):
            after_opts = True
        else:
            joined.append(token)
            after_opts = token.startswith("--opts=")
    return [*joined, *rest]


def _is_override(token: str) -> bool:
    if re.match(f"{_KEY}=", token):
        return True
    return re.fullmatch(_KEY, token) is not None and not Path(token).exists()


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
