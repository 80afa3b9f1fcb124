"""
Reading a checkpoint without running what is in it.

A pickle is a program. torch.load has a mode that refuses all but tensors and plain containers; the
.pkl files of detectron2's model zoo are read by ``array_unpickler.load_arrays``; .safetensors
hold nothing but tensors.
"""

import os
import re
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..errors import InputError
from .array_unpickler import Refused, load_arrays

__all__ = ["import_safetensors", "read_checkpoint"]


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """
    The content of a weights file.

    Args:
        path (str): a local file; ``.pkl`` is read as a pickle of NumPy arrays, ``.safetensors`` by
            the package safetensors, all else by ``torch.load(weights_only=True)`` onto the CPU.

    Returns:
        dict: what was saved: a state dict, or a dict that has one under "model".

    Raises:
        InputError: no such file; an empty or damaged one; one that wants to run code, refused
            by the name of what it wanted; one that holds no dict with texts as keys, or a tensor
            of more numbers than are in the file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The weights file {path} does not exist.")
    if path.stat().st_size == 0:
        raise InputError(f"The weights file {path} is empty (0 bytes).")
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
        inflated = _find_inflated(content)  # which never ends for a dict that holds itself
    except Refused as refused:
        _refuse(path, str(refused), refused)
    # A damaged file can make the readers raise anything.
    except Exception as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            _refuse(path, wanted[1], error)
        raise InputError(
            f"The weights file {path} cannot be read: it is damaged or of another kind "
            f"({type(error).__name__}). .pkl must be a pickle of arrays, .safetensors what its "
            "name says, all others a file that torch.save wrote with tensors by name."
        ) from error
    if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
        raise InputError(
            f"The weights file {path} holds a {type(content).__name__}, not weights by name."
        )
    if inflated:
        raise InputError(
            f"The weights file {path} is refused: {inflated} claims more numbers than the file has "
            "for it, and would fill the memory. Save it as tensor.contiguous()."
        )
    return content


def _find_inflated(content: Any, name: str = "") -> str:
    """The first tensor whose strides repeat numbers: in a small file it may be huge."""
    if isinstance(content, dict):
        inner = (_find_inflated(x, f"{name}.{key}".lstrip(".")) for key, x in content.items())
        return next(filter(None, inner), "")
    if not isinstance(content, torch.Tensor) or content.layout != torch.strided:
        return ""
    is_inflated = content.numel() * content.element_size() > content.untyped_storage().nbytes()
    return name if is_inflated and not content.is_meta else ""


def import_safetensors() -> Any:
    """
    The package safetensors, for PyTorch.

    Raises:
        InputError: it is not installed.
    """
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise InputError(
            "Files that end in .safetensors need the package safetensors, which is not installed. "
            "Install it with: pip install safetensors"
        ) from error
    return safetensors.torch


def _refuse(path: Path, wanted: str, error: Exception) -> NoReturn:
    raise InputError(
        f"The weights file {path} is refused: it wants to use {wanted}, which may run code. "
        "Weights are tensors or arrays by name; where you trust the file, and have what it needs, "
        "save them anew as such: torch.save({'model': model.state_dict()}, 'weights.pth')."
    ) from error
