"""Where results are written: one picture for each image, and never in the place of an image."""

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError

__all__ = ["check_no_input_replaced", "check_writable", "flat_names", "name_outputs"]


def flat_names(files: Sequence[str | Path], folder: str | Path | None = None) -> list[str]:
    """
    Names without folders, ``a_x.png`` for ``a/x.png``.

    Args:
        files (list[str]): paths.
        folder (str): what the names are relative to; where files lie elsewhere too, or it is None,
            the innermost folder that all are in.
    """
    paths = [Path(os.path.abspath(file)) for file in files]
    if not paths:
        return []
    base = Path(os.path.abspath(folder)) if folder else None
    if base is None or not all(path.is_relative_to(base) for path in paths):
        base = Path(os.path.commonpath([path.parent for path in paths]))
    return ["_".join(path.relative_to(base).parts) for path in paths]


def name_outputs(names: Sequence[str], inputs: Sequence[str | Path], folder: Path) -> list[Path]:
    """
    A file for the picture of each image: its name's stem, or where several have that the whole
    name, with .png.

    Args:
        names (list[str]): of the images, without folders.
        inputs (list[str]): the images' paths, in the same order.
        folder (Path): of the pictures.

    Raises:
        InputError: two pictures would be one file, or would take the place of an image.
    """
    # By lower case: for some file systems x and X are one name.
    stems = Counter(Path(name).stem.lower() for name in names)
    outputs = [
        folder / f"{Path(name).stem if stems[Path(name).stem.lower()] == 1 else name}.png"
        for name in names
    ]
    seen: dict[str, str | Path] = {}
    for output, file in zip(outputs, inputs, strict=True):
        other = seen.setdefault(output.name.lower(), file)
        if other is not file:
            raise InputError(
                f"The pictures of {other} and {file} would both be {output}. Take them one at a "
                "time, with an --output each."
            )
    check_no_input_replaced(outputs, inputs)
    return outputs


def check_no_input_replaced(outputs: Sequence[Path], inputs: Sequence[str | Path]) -> None:
    """
    Raises:
        InputError: an output is an input too, by whichever path, or a folder.
    """
    kept = {_identity(Path(file)): file for file in inputs if Path(file).exists()}
    for output in outputs:
        if output.is_dir():
            raise InputError(f"{output} would be written, but there is a folder of that name.")
        if output.exists() and _identity(output) in kept:
            raise InputError(
                f"{output} would take the place of the image {kept[_identity(output)]}. Choose "
                "another folder for --output."
            )


def check_writable(folder: str | Path, name: str) -> None:
    """
    Make a folder for results, and try to write to it.

    Args:
        folder (str): its parents are made too.
        name (str): what an error calls it, such as "OUTPUT_DIR = 'output'".

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{name} cannot be written to: {error}.") from error


def _identity(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_dev, status.st_ino
