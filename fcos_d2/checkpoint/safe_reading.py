"""
Reading a checkpoint without running what is in it.

A pickle is a program. torch.load has a mode that refuses all but tensors and plain containers; for
the .pkl files of detectron2's model zoo, an unpickler here knows NumPy arrays and nothing else.
"""

import os
import pickle
import re
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..errors import InputError

__all__ = ["read_checkpoint"]

# All that a file of the model zoo is made of. numpy.core is what NumPy 2 calls numpy._core.
_ALLOWED = {
    ("collections", "OrderedDict"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # how protocol 2 writes bytes
} | {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (
        ("multiarray", "_reconstruct"),
        ("multiarray", "scalar"),
        ("numeric", "_frombuffer"),
    )
}


class _Refused(Exception):
    """The name of what a pickle wanted to use."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return super().find_class(module, name)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """
    The content of a weights file.

    Args:
        path (str): a local file; ``.pkl`` is read as a pickle of NumPy arrays, all else by
            ``torch.load(weights_only=True)`` onto the CPU.

    Returns:
        dict: what was saved: a state dict, or a dict that has one under "model".

    Raises:
        InputError: no such file; an empty or damaged one; one that wants to run code, refused
            by the name of what it wanted; one that holds no dict.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The weights file {path} does not exist.")
    if path.stat().st_size == 0:
        raise InputError(f"The weights file {path} is empty (0 bytes).")
    try:
        if path.suffix == ".pkl":
            with path.open("rb") as file:
                content = _ArrayUnpickler(file, encoding="latin1").load()
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _Refused as refused:
        _refuse(path, str(refused), refused)
    # A damaged file can make the readers raise anything.
    except Exception as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            _refuse(path, wanted[1], error)
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"The weights file {path} cannot be read: it is damaged, or no checkpoint "
            f"({type(error).__name__}: {reason}). Copy or download it again."
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"The weights file {path} holds a {type(content).__name__}, not weights by name."
        )
    return content


def _refuse(path: Path, wanted: str, error: Exception) -> NoReturn:
    raise InputError(
        f"The weights file {path} is refused: it wants to use {wanted}, which may run code. "
        "Weights are tensors or arrays by name; save them anew as such, where you trust the file: "
        "torch.save({'model': model.state_dict()}, 'weights.pth')."
    ) from error
