"""
Reading a LazyConfig and its overrides, with errors that name the key and the reason.

A LazyConfig is a Python file, and loading it runs its code. Only load files that you trust.
"""

import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from ..errors import Collector, InputError, nearest

__all__ = ["is_lazy_config", "override", "run_config_file"]

_PACKAGES = {"detectron2", "fcos_d2"}  # folders with the code that runs config files


def is_lazy_config(config_file: str) -> bool:
    """Return whether a config file is a LazyConfig, which is a Python file."""
    return Path(config_file).suffix == ".py"


def run_config_file(config_file: str) -> DictConfig:
    """
    Run a config file.

    Raises:
        InputError: If the file does not exist, or if running it fails. The message names the line.
    """
    if not Path(config_file).is_file():
        raise InputError(
            f"The config file {Path(config_file).absolute()} does not exist or is not a file. "
            "The configs of this project are in configs/, such as configs/lazy/fcos_R_50_FPN.py.",
            file=config_file,
        )
    try:
        return LazyConfig.load(str(config_file))
    except Exception as error:  # the file may run any code
        cause = error.__cause__ if isinstance(error, SyntaxError) and error.__cause__ else error
        # The innermost line of the user's own code. A syntax error has no such frame.
        lines = [
            f"{frame.filename}, line {frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
            if not (frame.filename.startswith("<") or _PACKAGES & set(Path(frame.filename).parts))
        ]
        where = lines[-1] if lines else config_file
        reason = f"{where}: {type(cause).__name__}: {cause}"
        text = f"The config file {config_file} cannot be run: {reason}"
        raise InputError(text, file=config_file) from error


def override(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """
    Set keys of a LazyConfig.

    Args:
        cfg (DictConfig): The config, which is changed in place.
        overrides (list[str]): KEY=VALUE, or +KEY=VALUE for a new key.

    Raises:
        InputError: If overrides cannot be applied. The message has a line for each of them.
    """
    collect = Collector()
    for text in overrides:
        collect(_override_one, cfg, text)
    collect.check()


def _override_one(cfg: DictConfig, text: str) -> None:
    """Set one key."""
    key, equals, value = text.partition("=")
    if text.startswith("-"):
        raise InputError(f"The flag {text} must come before the overrides.", key=text)
    if not equals:
        hint = "Overrides of a LazyConfig are KEY=VALUE, such as train.max_iter=100"
        raise InputError(f"{hint}, but got {text!r}.", key=key)
    if not key.startswith("+"):
        _check_key(cfg, key)
    try:
        LazyConfig.apply_overrides(cfg, [text])
    except Exception as error:  # also those of hydra's parser, if hydra is installed
        message = f"The override {text!r} of the LazyConfig cannot be applied: {error}"
        raise InputError(message, key=key, value=value) from error


def _check_key(cfg: DictConfig, key: str) -> None:
    """Check that the config has a key, because OmegaConf would add a misspelled one."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    # Any argument of a call may be set here; _check_calls reports those that are unknown.
    if isinstance(node, DictConfig) and (name in node or "_target_" in node):
        return
    if isinstance(node, ListConfig) and name.isdecimal() and int(name) < len(node):
        return
    known = list(_all_keys(OmegaConf.to_container(cfg, resolve=False)))
    raise InputError(
        f"The LazyConfig has no key {key}. {nearest(key, known)} To add a new key, write "
        f"+{key}=...",
        key=key,
    )


def _all_keys(content: object, prefix: str = "") -> Iterator[str]:
    """Yield the full keys of all sections and values."""
    if not isinstance(content, dict | list):
        return
    names: Iterable[Any] = content if isinstance(content, dict) else range(len(content))
    for name in names:
        yield f"{prefix}{name}"
        yield from _all_keys(content[name], f"{prefix}{name}.")
