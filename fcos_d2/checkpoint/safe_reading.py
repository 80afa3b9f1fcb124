"""
Reading of checkpoints without running code from them.

A pickle is a program. torch.load has a mode that accepts only tensors and plain containers. The
.pkl files of detectron2's model zoo are read by ``array_unpickler.load_arrays``. Files in the
safetensors format hold only tensors.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch

from ..errors import InputError
from .array_unpickler import UnsafePickleError, load_arrays

__all__ = ["import_safetensors", "name_weights_file", "read_checkpoint"]


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """
    Read a weights file.

    Args:
        path (str): A local file. ``.pkl`` is read as a pickle of NumPy arrays, ``.safetensors`` by
            the package safetensors, any other file by ``torch.load(weights_only=True)`` onto the
            CPU.

    Returns:
        dict: The saved content: a state dict, or a dict that has one under a key such as "model".

    Raises:
        InputError: If the file is missing, empty or damaged, would run code (the message names the
            function or class), or is not a dict with strings as keys, or if a tensor has more
            numbers than the file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The weights file {path} does not exist.", file=str(path))
    if path.stat().st_size == 0:
        raise InputError(f"The weights file {path} is empty (0 bytes).", file=str(path))
    suffix = path.suffix.lower()
    load_file = import_safetensors().load_file if suffix == ".safetensors" else None
    try:
        if suffix == ".pkl":
            with path.open("rb") as file:
                content = load_arrays(file)
        elif load_file:
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        inflated = _find_inflated(content)  # RecursionError for a dict that contains itself
    except UnsafePickleError as error:
        _refuse(path, str(error), error)
    # A damaged file can make the readers raise any exception.
    except Exception as error:
        refused_name = re.search(r"GLOBAL (\S+)", str(error))  # in torch.load's message
        if refused_name:
            _refuse(path, refused_name[1], error)
        raise InputError(
            f"The weights file {path} cannot be read: it is damaged or has another format "
            f"({type(error).__name__}). A .pkl file must be a pickle of arrays, a .safetensors "
            "file must be in that format, and any other file must be a dict of tensors that "
            "torch.save has written.",
            file=str(path),
        ) from error
    if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
        raise InputError(
            f"The weights file {path} holds a {type(content).__name__}, not weights by name.",
            file=str(path),
        )
    if inflated:
        raise InputError(
            f"The weights file {path} is refused: {inflated} claims more numbers than the file has "
            "for it, and could fill the memory. Save it as tensor.contiguous().",
            file=str(path),
        )
    return content


@contextmanager
def name_weights_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the weights file in the InputErrors of a block."""
    try:
        yield
    except InputError as error:
        raise error.with_prefix(f"The weights file {path}: ", file=str(path)) from error


def _find_inflated(content: Any, name: str = "") -> str:
    """
    Find a tensor that is larger than its data in the file, and return its name, or "".

    The strides of such a tensor repeat numbers, so a small file can define a huge tensor.
    """
    if isinstance(content, dict):
        inner = (_find_inflated(x, f"{name}.{key}".lstrip(".")) for key, x in content.items())
        return next(filter(None, inner), "")
    if not isinstance(content, torch.Tensor) or content.layout != torch.strided:
        return ""
    is_inflated = content.numel() * content.element_size() > content.untyped_storage().nbytes()
    return name if is_inflated and not content.is_meta else ""


def import_safetensors() -> ModuleType:
    """
    Import ``safetensors.torch``.

    Raises:
        InputError: If safetensors is not installed.
    """
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise InputError(
            "Files that end in .safetensors need the package safetensors, which is not installed. "
            "Install it with: pip install safetensors"
        ) from error
    return safetensors.torch


def _refuse(path: Path, name: str, error: Exception) -> NoReturn:
    """Raise the InputError for a file that uses more than tensors and arrays."""
    raise InputError(
        f"The weights file {path} is refused: it uses {name}, which may run code. A weights file "
        "must hold only tensors or arrays by name. If you trust the file, load it in the program "
        "that wrote it and save only the weights: "
        "torch.save({'model': model.state_dict()}, 'weights.pth').",
        file=str(path),
    ) from error
