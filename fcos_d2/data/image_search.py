"""The search for image files in folders."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageFile

from ..errors import InputError, agree, count_words
from .file_types import FileType, find_file_type

__all__ = ["FoundImages", "describe_left_out", "find_images"]

# The suffixes of formats that may have several frames or pages.
_ANIMATED = (".gif", ".webp", ".apng", ".tif", ".tiff")


class FoundImages(NamedTuple):
    """
    The result of a search for images.

    Attributes:
        images (list[Path]): The images, each once.
        other_files (list[Path]): The files in the folders that are not images.
        subfolders (list[Path]): The folders in the folders that were not searched.
    """

    images: list[Path]
    other_files: list[Path]
    subfolders: list[Path]


def find_images(
    paths: Iterable[Path], *, recursive: bool = False, output: Path | None = None
) -> FoundImages:
    """
    List image files, and the image files in folders.

    In a folder, a file is an image if PIL can open files with its suffix or its first bytes. Hidden
    files are not images.

    Args:
        paths (Iterable[Path]): Files and folders.
        recursive (bool): Search the subfolders of folders, too.
        output (Path): A folder for results, which is not searched as a subfolder.

    Returns:
        FoundImages: The files in the order of the paths; those of a folder are sorted by name.

    Raises:
        InputError: If a path does not exist, or there is no image.
    """
    paths = list(paths)
    images: dict[str, Path] = {}
    other_files: list[Path] = []
    subfolders: list[Path] = []
    for path in paths:
        if not path.exists():
            fault = "is a broken link" if path.is_symlink() else "does not exist"
            raise InputError(f"The image {path} {fault}.")
        if not path.is_dir():
            images.setdefault(os.path.abspath(path), path)
            continue
        for entry in _list_folder(path, recursive, output):
            if entry.is_dir():
                subfolders.append(entry)
            elif entry.is_file() and _is_image(entry):
                images.setdefault(os.path.abspath(entry), entry)
            else:
                other_files.append(entry)
    found = FoundImages(list(images.values()), other_files, subfolders)
    if not images:
        lines = [f"There is no image in {', '.join(map(str, paths))}.", *describe_left_out(found)]
        raise InputError(" ".join(lines))
    return found


def _list_folder(folder: Path, recursive: bool, output: Path | None) -> Iterator[Path]:
    """Yield the files of a folder and, if they are not searched too, its subfolders."""
    for entry in sorted(folder.iterdir()):
        is_output = output is not None and entry.absolute() == output.absolute()
        if not (recursive and entry.is_dir()):
            if not is_output:
                yield entry
        elif not (is_output or entry.is_symlink()):  # a link may lead to a folder around it
            yield from _list_folder(entry, recursive, output)


def _is_image(file: Path) -> bool:
    """Return whether PIL can open files with a file's suffix, or with its first bytes."""
    if file.name.startswith("."):
        return False
    if file.suffix.lower() in _readable_suffixes():
        return True
    try:
        with Image.open(file) as image:
            return image.format in _readable_formats()
    except Exception:  # a file of any kind can make PIL's readers raise any exception
        return False


def _is_animated(file: Path) -> bool:
    """Return whether a file is of a format for animations or pages and has several of them."""
    if file.suffix.lower() not in _ANIMATED:
        return False
    try:
        with Image.open(file) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # what is wrong with the file is reported when it is read
        return False


@cache
def _readable_formats() -> frozenset[str]:
    """Return the formats that PIL can decode by itself, such as "JPEG"."""
    Image.init()
    # PIL recognizes stubs, such as of HDF5, and MPEG, but cannot decode them.
    return frozenset(
        name
        for name, (reader, _) in Image.OPEN.items()
        if name != "MPEG"
        and not (isinstance(reader, type) and issubclass(reader, ImageFile.StubImageFile))
    )


@cache
def _readable_suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of the formats that PIL can decode."""
    formats = _readable_formats()
    return frozenset(x for x, name in Image.registered_extensions().items() if name in formats)


def describe_left_out(found: FoundImages) -> Iterator[str]:
    """Yield a sentence about each kind of file, frames and subfolders that are left out."""
    by_type: dict[FileType, list[Path]] = defaultdict(list)
    for file in found.other_files:
        by_type[_type_of(file)].append(file)
    for (_, one, many, remedy), files in by_type.items():
        what = one if len(files) == 1 else f"{len(files)} {many}"
        first = f"{files[0]}" if len(files) == 1 else f"the first is {files[0]}"
        yield f"Left out: {what} ({first}). {agree(remedy, len(files))}".rstrip()
    animated = [x for x in found.images if _is_animated(x)]
    if animated:
        what = count_words(len(animated), "{animated image|animated images}")
        yield f"Left out: all frames but the first of {what} (such as {animated[0]})."
    if found.subfolders:
        what = count_words(len(found.subfolders), "{subfolder|subfolders}")
        example = min(found.subfolders, key=lambda x: x.name.startswith("."))
        yield f"Left out: {what} (such as {example}). Add --recursive to search them, too."


def _type_of(file: Path) -> FileType:
    """Return what a file is that is not an image."""
    if file.is_symlink() and not file.exists():
        return FileType("link", "a broken link", "broken links", "")
    return find_file_type(file) or FileType("other", "another file", "other files", "")
