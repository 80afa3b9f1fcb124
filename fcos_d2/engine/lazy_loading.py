"""
Reading a LazyConfig and overrides, with errors that say which key and why.

A LazyConfig is a Python file: to load it is to run it. Load those of people you trust.
"""

import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from ..errors import Collector, InputError, nearest

__all__ = ["is_lazy_config", "override", "run_config_file"]

_PACKAGES = {"detectron2", "fcos_d2"}  # folders of code that runs a config file


def is_lazy_config(config_file: str) -> bool:
    """Whether a config file is a LazyConfig, that is, Python."""
    return Path(config_file).suffix == ".py"


def run_config_file(config_file: str) -> DictConfig:
    """
    Run a config file.

    Raises:
        InputError: it does not exist, or fails; the message names the line.
    """
    if not Path(config_file).is_file():
        raise InputError(
            f"The config file {Path(config_file).absolute()} does not exist, or is not a file. "
            "Those of this project are under configs/, such as configs/lazy/fcos_R_50_FPN.py.",
            file=config_file,
        )
    try:
        return LazyConfig.load(str(config_file))
    except Exception as error:  # the file can do anything
        cause = error.__cause__ if isinstance(error, SyntaxError) and error.__cause__ else error
        # The innermost line of the user's; where the syntax is wrong, there is no such frame.
        lines = [
            f"{frame.filename}, line {frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
            if not (frame.filename.startswith("<") or _PACKAGES & set(Path(frame.filename).parts))
        ]
        where = lines[-1] if lines else config_file
        text = f"The config file {config_file} cannot be run: {where}: "
        raise InputError(f"{text}{type(cause).__name__}: {cause}", file=config_file) from error


def override(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """
    Set keys of a LazyConfig.

    Args:
        cfg (DictConfig): changed in place.
        overrides (list[str]): KEY=VALUE; +KEY=VALUE for a key that is not there yet.

    Raises:
        InputError: all overrides that cannot be applied.
    """
    collect = Collector()
    for text in overrides:
        collect(_override_one, cfg, text)
    collect.check()


def _override_one(cfg: DictConfig, text: str) -> None:
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
    except Exception as error:  # of hydra's parser, where it is installed
        message = f"The override {text!r} of the LazyConfig cannot be applied: {error}"
        raise InputError(message, key=key, value=value) from error


def _check_key(cfg: DictConfig, key: str) -> None:
    """Omegaconf would make a key that was misspelt."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    # Of a call, every argument may be set; _check_calls knows which there are.
    if isinstance(node, DictConfig) and (name in node or "_target_" in node):
        return
    if isinstance(node, ListConfig) and name.isdecimal() and int(name) < len(node):
        return
    known = list(_all_keys(OmegaConf.to_container(cfg, resolve=False)))
    raise InputError(
        f"The LazyConfig has no key {key}. {nearest(key, known)} For a new one write +{key}=...",
        key=key,
    )


def _all_keys(content: Any, prefix: str = "") -> Iterator[str]:
    if not isinstance(content, dict | list):
        return
    names: Iterable[Any] = content if isinstance(content, dict) else range(len(content))
    for name in names:
        yield f"{prefix}{name}"
        yield from _all_keys(content[name], f"{prefix}{name}.")
