"""Loading of exported files of all formats."""

from pathlib import Path

from ..errors import InputError
from .onnx_file import load_onnx
from .program_info import ProgramInfo
from .running import RunFunction
from .torch_files import load_pt2

__all__ = ["is_exported_name", "load_exported"]

_LOADERS = {".onnx": load_onnx, ".pt2": load_pt2}


def is_exported_name(file: str | Path) -> bool:
    """Return whether the name of a file is that of an exported model."""
    return Path(file).suffix.lower() in _LOADERS


def load_exported(file: str | Path) -> tuple[RunFunction, ProgramInfo]:
    """
    Load an exported model.

    A .pt2 file can contain code that is executed, so it should come from a source you trust.

    Args:
        file (str | Path): A .onnx or .pt2 file of ``export_model``.

    Returns:
        tuple[Callable, ProgramInfo]: A function from images (N, C, H, W) to the list of outputs,
        and the metadata.

    Raises:
        InputError: If the file is not one of these.
    """
    path = Path(file)
    if not is_exported_name(path):
        raise InputError(f"{path} must end in {' or '.join(_LOADERS)}.", file=str(path))
    if not path.is_file():
        raise InputError(f"There is no file {path}.", file=str(path))
    return _LOADERS[path.suffix.lower()](path)
