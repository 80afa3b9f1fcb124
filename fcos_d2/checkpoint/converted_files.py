"""The files that ``fcos-d2 convert`` writes: weights, and the config next to them."""

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
from ..output_files import check_new_file
from .conversion import Converted
from .formats import SOURCES
from .safe_reading import import_safetensors

__all__ = ["check_output", "save_converted", "save_weights"]

_SUFFIXES = (".pth", ".safetensors")


def check_output(
    output: Path, inputs: list[Path], *, with_config: bool = True, overwrite: bool = False
) -> None:
    """
    Check that the results can be written.

    Args:
        output (Path): The file for the weights. The config gets the same name with .yaml.
        inputs (list[Path]): The files that are read.
        with_config (bool): Whether a config is written, too.
        overwrite (bool): Whether existing files may be replaced. Inputs are never replaced.

    Raises:
        InputError: If the suffix is not that of a weights file, the folder does not exist, or a
            file already exists.
    """
    if output.suffix not in _SUFFIXES:
        raise InputError(f"--output {output} must end in one of {', '.join(_SUFFIXES)}.")
    if output.suffix == ".safetensors":
        import_safetensors()
    for file in (output, output.with_suffix(".yaml")) if with_config else (output,):
        check_new_file(file, inputs, overwrite=overwrite)


def save_converted(converted: Converted, source: Path, output: Path) -> Path:
    """
    Write the weights and the config: both files or neither.

    Args:
        converted (Converted): Weights and config.
        source (Path): The file that was converted.
        output (Path): The file for the weights, .pth or .safetensors.

    Returns:
        Path: The file of the config.
    """
    config = output.with_suffix(".yaml")
    text = _config_text(converted, source, output)
    with replacing(output) as weights_file, replacing(config) as config_file:
        _write(converted.weights, {"model": converted.weights}, weights_file)
        config_file.write_text(text)
    return config


def save_weights(weights: Mapping[str, Tensor], content: dict[str, Any], output: Path) -> None:
    """
    Write weights in the format that the suffix of the file names.

    Args:
        weights (dict[str, Tensor]): The content of a .safetensors file.
        content (dict): The content of a .pth file.
        output (Path): The file, .pth or .safetensors.
    """
    with replacing(output) as file:
        _write(weights, content, file)


def _write(weights: Mapping[str, Tensor], content: dict[str, Any], file: Path) -> None:
    """Write a .safetensors file with the weights, or a .pth file with the content."""
    if file.suffix == ".safetensors":
        # safetensors refuses tensors that share memory, such as rows of one tensor.
        copies = {name: value.clone().contiguous() for name, value in weights.items()}
        import_safetensors().save_file(copies, file, metadata={"format": "pt"})
    else:
        torch.save(content, file)


def _config_text(converted: Converted, source: Path, output: Path) -> str:
    """Return the YAML of the keys that were set, after comments about what was assumed."""
    title = SOURCES[converted.source].title
    lines = [f"# Written by fcos-d2 convert from {source.name}: weights of {title}."]
    if converted.assumed:
        lines.append("# Assumed, because the file does not say it:")
        lines += [f"#   {key}: {value}" for key, value in converted.assumed.items()]
    if converted.differences:
        lines.append(f"# How the outputs of {title} differ (docs/checkpoints.md):")
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
