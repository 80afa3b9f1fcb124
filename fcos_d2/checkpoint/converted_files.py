"""What ``fcos-d2 convert`` writes: weights, and the config beside them."""

import os
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ..atomic_write import replacing
from ..errors import InputError
from .conversion import Converted
from .formats import SOURCES
from .safe_reading import import_safetensors

__all__ = ["check_output", "save_converted", "save_weights"]

_SUFFIXES = (".pth", ".safetensors")


def check_output(
    output: Path, inputs: list[Path], *, with_config: bool = True, overwrite: bool = False
) -> None:
    """
    Whether results may be written.

    Args:
        output (Path): the weights; the config goes beside them, with the suffix .yaml.
        inputs (list[Path]): files that are read.
        with_config (bool): a config is written too.
        overwrite (bool): files that exist may be replaced, but no input.

    Raises:
        InputError: a suffix that is none of weights, no such folder, a file that exists.
    """
    if output.suffix not in _SUFFIXES:
        raise InputError(f"--output {output} must end in one of {', '.join(_SUFFIXES)}.")
    if output.suffix == ".safetensors":
        import_safetensors()
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: the folder {output.parent} does not exist.")
    config = output.with_suffix(".yaml")
    for file in (output, config) if with_config else (output,):
        if file.is_dir():
            raise InputError(f"{file} would be written, but there is a folder of that name.")
        if file.exists() and any(x.exists() and x.samefile(file) for x in inputs):
            raise InputError(f"{file} would take the place of what is read. Choose another name.")
        if file.exists() and not overwrite:
            raise InputError(f"{file} exists already: choose another name, or add --overwrite.")


def save_converted(converted: Converted, source: Path, output: Path) -> Path:
    """
    Write both files, or none.

    Args:
        converted (Converted): weights and config.
        source (Path): the file that they are from.
        output (Path): .pth or .safetensors.

    Returns:
        Path: the config's.
    """
    config = output.with_suffix(".yaml")
    text = _config_text(converted, source, output)
    with replacing(output) as weights_file, replacing(config) as config_file:
        _write(converted.weights, {"model": converted.weights}, weights_file)
        config_file.write_text(text)
    return config


def save_weights(weights: Mapping[str, Tensor], content: dict[str, Any], output: Path) -> None:
    """
    Args:
        weights (dict[str, Tensor]): what .safetensors holds.
        content (dict): what .pth holds.
        output (Path): .pth or .safetensors.
    """
    with replacing(output) as file:
        _write(weights, content, file)


def _write(weights: Mapping[str, Tensor], content: dict[str, Any], file: Path) -> None:
    if file.suffix == ".safetensors":
        # It refuses what shares memory, such as rows of one tensor.
        copies = {name: value.clone().contiguous() for name, value in weights.items()}
        import_safetensors().save_file(copies, file, metadata={"format": "pt"})
    else:
        torch.save(content, file)


def _config_text(converted: Converted, source: Path, output: Path) -> str:
    """YAML of the keys that were set, with what was assumed above it."""
    lines = [f"# Written by fcos-d2 convert from {source.name}: {SOURCES[converted.source].title}."]
    if converted.assumed:
        lines.append("# Assumed, as the file does not say:")
        lines += [f"#   {key}: {value}" for key, value in converted.assumed.items()]
    if converted.differences:
        lines.append("# Where its owner's outputs still differ (docs/checkpoints.md):")
        lines += [f"#   {difference}" for difference in converted.differences]
    tree: dict[str, Any] = {}
    for key in ["MODEL.WEIGHTS", *converted.keys]:
        *path, name = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        value = reduce(getitem, path, converted.cfg)[name]
        node[name] = list(value) if isinstance(value, tuple) else value
    tree["MODEL"]["WEIGHTS"] = os.path.abspath(output)
    tree["VERSION"] = converted.cfg.VERSION
    return "\n".join(lines) + "\n" + yaml.safe_dump(tree, sort_keys=False, default_flow_style=None)
