"""Names for the files of results, such as pictures, and checks that no input is replaced."""

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError, count_words

__all__ = [
    "check_new_file",
    "check_no_input_replaced",
    "check_not_an_input",
    "check_own_files",
    "check_writable",
    "flat_names",
    "name_outputs",
]

_LONGEST_NAME = 220  # in bytes; file systems allow 255, and temporary names are longer


def flat_names(files: Sequence[str | Path], folder: str | Path | None = None) -> list[str]:
    """
    Turn paths into names without folders, such as ``a_x.png`` for ``a/x.png``.

    Args:
        files (list[str]): The paths.
        folder (str): The folder that the names are relative to. If it is None, or a file is not in
            it, the innermost folder that has all files is used.

    Returns:
        list[str]: The names, in the order of the paths.
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
    Choose a .png file for the picture of each image.

    Its name is the stem of the image's name, or the whole name if several images have the same
    stem.

    Args:
        names (list[str]): The names of the images, without folders.
        inputs (list[str]): The paths of the images, in the same order.
        folder (Path): The folder of the pictures.

    Returns:
        list[Path]: The files, in the same order.

    Raises:
        InputError: If two pictures would have the same file, or a picture would replace an image.
    """
    # Compared in lower case, because x and X are the same name in some file systems.
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
                f"The pictures of {other} and {file} would both be {output}. Use a separate run "
                "with another --output for each of them."
            )
    check_no_input_replaced(outputs, inputs)
    return outputs


def check_no_input_replaced(outputs: Sequence[Path], inputs: Sequence[str | Path]) -> None:
    """
    Check that no output is the same file as an input, even by another path.

    Args:
        outputs (list[Path]): The files that will be written.
        inputs (list[str]): The files that are read.

    Raises:
        InputError: If an output is an input or a folder.
    """
    input_files = {_identity(Path(file)): file for file in inputs if Path(file).exists()}
    for output in outputs:
        if output.is_dir():
            raise InputError(f"{output} would be written, but there is a folder of that name.")
        if output.exists() and _identity(output) in input_files:
            raise InputError(
                f"{output} would replace the image {input_files[_identity(output)]}. Choose "
                "another folder for --output."
            )


def check_not_an_input(folder: Path, inputs: Sequence[Path]) -> None:
    """
    Check that a folder for pictures is not one of the folders whose images are read.

    Otherwise, the next run would read the pictures, too.

    Args:
        folder (Path): The folder, which may not exist.
        inputs (list[Path]): The files and folders that are read.

    Raises:
        InputError: If it is one of them, even by another path.
    """
    if folder.is_dir() and any(_identity(folder) == _identity(x) for x in inputs if x.is_dir()):
        raise InputError(
            f"--output {folder} is a folder whose images are read, so that the next run would take "
            "the pictures for images. Choose another folder for --output."
        )


def check_own_files(outputs: Sequence[Path], results: Path) -> None:
    """
    Check that no pictures are replaced but those of an earlier run.

    Args:
        outputs (list[Path]): The files of the pictures.
        results (Path): The file that each run writes into their folder at its end.

    Raises:
        InputError: If some of the files exist and that one doesn't.
    """
    existing = [] if results.exists() else [x for x in outputs if x.exists()]
    if existing:
        raise InputError(
            f"{count_words(len(existing), '{file|files}')} in {results.parent} would be replaced, "
            f"such as {existing[0].name}, but without {results.name} there, no complete run has "
            "written them. Delete them, or choose another folder for --output."
        )


def check_new_file(file: Path, inputs: Sequence[Path] = (), *, overwrite: bool = False) -> None:
    """
    Check that a file can be created, or replaced if this is allowed.

    Args:
        file (Path): The file.
        inputs (list[Path]): Files that are read, which are never replaced.
        overwrite (bool): Whether an existing file may be replaced.

    Raises:
        InputError: If the folder does not exist, or there is something of this name.
    """
    if len(os.fsencode(file.name)) > _LONGEST_NAME:
        raise InputError(f"--output {file}: the name is too long.")
    if not file.parent.is_dir():
        raise InputError(f"--output {file}: the folder {file.parent} does not exist.")
    if file.is_dir():
        raise InputError(f"{file} would be written, but there is a folder of that name.")
    if file.exists() and any(x.exists() and x.samefile(file) for x in inputs):
        raise InputError(f"{file} would replace a file that is read. Choose another name.")
    if file.exists() and not overwrite:
        raise InputError(f"{file} exists already: choose another name, or add --overwrite.")


def check_writable(folder: str | Path, name: str) -> None:
    """
    Create a folder for results, and check that files can be written to it.

    Args:
        folder (str): The folder. Its parents are created, too.
        name (str): The name for errors, such as "OUTPUT_DIR = 'output'".

    Raises:
        InputError: If the folder cannot be created or written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{name} cannot be written to: {error}.") from error


def _identity(file: Path) -> tuple[int, int]:
    """Return device and inode of a file."""
    status = file.stat()
    return status.st_dev, status.st_ino
