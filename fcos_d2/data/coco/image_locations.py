"""
The search for the images of an annotation file.

A ``file_name`` should be a path below the folder of the images. Labeling tools also write paths of
other machines, URLs, and names in other spellings. If such a name is not a file, the image is found
by the last part of the name, if only one file in the folder and its subfolders has it.
"""

import os
import re
import stat
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from PIL import Image

__all__ = [
    "FIT_OF_ANOTHER",
    "NOT_THERE",
    "SEVERAL_FIT",
    "ImageLocations",
    "fold",
    "is_url",
    "locate_images",
    "with_locations",
]

NOT_THERE = "do not exist"
SEVERAL_FIT = "do not exist, and several files fit the end of their name"
FIT_OF_ANOTHER = "do not exist, and the only file that fits the end of their name fits another name"


class ImageLocations(NamedTuple):
    """
    Where the images of an annotation file are.

    Attributes:
        folder (str): The folder of the images.
        total (int): The number of different file names.
        found (dict[str, str]): The path below the folder, for each ``file_name`` that is not a path
            itself.
        problems (dict[str, str]): For each image that cannot be used: what is wrong, as it
            continues "images ...".
        similar (dict[str, list[str]]): The paths below the folder of files that fit a name, but
            are not used, because others fit too or only the name without the extension fits.
    """

    folder: str
    total: int
    found: dict[str, str]
    problems: dict[str, str]
    similar: dict[str, list[str]]

    def path(self, name: str) -> str:
        """Return the path of the image with a ``file_name``, whether it exists or not."""
        return os.path.join(self.folder, self.found.get(name, name))


def locate_images(names: Iterable[str], folder: str) -> ImageLocations:
    """
    Look for images, without opening them.

    The folder is listed only if a name is not a file.

    Args:
        names (list[str]): The ``file_name`` of each image.
        folder (str): The folder of the images.
    """
    problems = {name: _problem_of_file(os.path.join(folder, name)) for name in dict.fromkeys(names)}
    missing = [name for name, problem in problems.items() if problem == NOT_THERE]
    found: dict[str, str] = {}
    similar: dict[str, list[str]] = {}
    if missing:
        existing = [name for name, problem in problems.items() if problem != NOT_THERE]
        fitting, similar = _find_by_base_name(missing, folder)
        # A name that is a file can be written in another way, such as "./1.png".
        taken = (os.path.relpath(os.path.join(folder, name), folder) for name in existing)
        num_names = Counter([*taken, *(x[0] for x in fitting.values() if len(x) == 1)])
        for name, paths in fitting.items():
            if len(paths) > 1 or num_names[paths[0]] > 1:
                problems[name] = SEVERAL_FIT if len(paths) > 1 else FIT_OF_ANOTHER
                similar[name] = paths
            else:
                found[name] = paths[0]
                problems[name] = _problem_of_file(os.path.join(folder, paths[0]))
    unusable = {name: problem for name, problem in problems.items() if problem is not None}
    return ImageLocations(folder, len(problems), found, unusable, similar)


def _problem_of_file(file: str) -> str | None:
    """Return what is wrong with a file, as it continues "these files ..."; None if nothing is."""
    try:
        status = os.stat(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: it cannot be a path
        return "are links to nothing" if os.path.islink(file) else NOT_THERE
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return "are not files (but folders or devices)"
    return None if status.st_size else "are empty (0 bytes)"


def _find_by_base_name(
    names: Sequence[str], folder: str
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """
    Find files by the last part of names.

    Args:
        names (list[str]): Names that are not files.
        folder (str): The folder to search, with its subfolders.

    Returns:
        tuple[dict, dict]: The best files for the names that have any; and for the others, the
        images that have another extension than the name.
    """
    by_base, by_stem = _list_folder(folder)
    best = {name: _best_candidates(name, by_base, by_stem) for name in names}
    fitting = {name: paths for name, paths in best.items() if paths}
    similar = {}
    for name in names:
        stem, suffix = os.path.splitext(fold(_split(name)[-1]))
        # A file with another extension may be something else, such as a mask.
        if name not in fitting and suffix and stem in by_stem:
            similar[name] = by_stem[stem]
    return fitting, similar


def _list_folder(folder: str) -> tuple[Mapping[str, list[str]], Mapping[str, list[str]]]:
    """List the files below a folder, as relative paths by folded base name and by its stem."""
    image_suffixes = Image.registered_extensions()
    by_base, by_stem = defaultdict(list), defaultdict(list)
    for path in _walk(folder):
        base = fold(os.path.basename(path))
        by_base[base].append(path)
        stem, suffix = os.path.splitext(base)
        if suffix in image_suffixes:
            by_stem[stem].append(path)
    return by_base, by_stem


def _walk(folder: str) -> Iterator[str]:
    """
    Yield the relative paths of the files below a folder, also below links to folders.

    A folder that several paths lead to is listed once, by a path without links if there is one.
    """
    folders, links = deque([""]), deque[str]()
    seen = set()
    while folders or links:
        parent = folders.popleft() if folders else links.popleft()
        path = os.path.join(folder, parent)
        try:
            status = os.stat(path)
            entries = sorted(os.scandir(path), key=lambda x: x.name)
        except OSError:  # such as a folder of another user
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            name = os.path.join(parent, entry.name)
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(name)
            elif entry.is_file():  # not a link to nothing
                yield name


def fold(text: str) -> str:
    """Return a text in a form in which case and Unicode form (NFC or NFD) are equal."""
    return text.casefold() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def _best_candidates(
    name: str, by_base: Mapping[str, list[str]], by_stem: Mapping[str, list[str]]
) -> list[str]:
    """
    Return the files that fit a name best.

    These are the files with the same last part. Of several, those with the most equal folders at
    the end of the path are the best, and then those in the same case and Unicode form.
    """
    for parts in dict.fromkeys((_split(name), _split(unquote(_path_of_url(name))))):
        candidates = by_base.get(fold(parts[-1])) or by_stem.get(fold(parts[-1])) or []
        if len(candidates) == 1:
            return candidates
        ranks = {path: _similarity(parts, PurePosixPath(path).parts) for path in candidates}
        if ranks:
            return [path for path, rank in ranks.items() if rank == max(ranks.values())]
    return []


def _similarity(parts: Sequence[str], path: Sequence[str]) -> tuple[int, bool]:
    """Return the number of equal folders at the ends, and whether the last parts are the same."""
    count = 0
    for one, other in zip(reversed(parts[:-1]), reversed(path[:-1]), strict=False):
        if fold(one) != fold(other):
            break
        count += 1
    return count, parts[-1] == path[-1]


def _split(name: str) -> tuple[str, ...]:
    """Split a name at slashes and backslashes."""
    return tuple(re.split(r"[/\\]", name))


def is_url(name: str) -> bool:
    """Return whether a name is a URL."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", name) is not None


def _path_of_url(name: str) -> str:
    """Return the path of a URL, without its query; another name is returned as it is."""
    try:
        return urlsplit(name).path if is_url(name) else name
    except ValueError:
        return name


def with_locations(
    content: Mapping[str, Any], found: Mapping[str, str], left_out: Set[str]
) -> dict[str, Any]:
    """
    Return COCO content with the paths of the images that were found, without those left out.

    Args:
        content (dict): Valid COCO content.
        found (dict[str, str]): ``ImageLocations.found``.
        left_out (set[str]): The ``file_name`` of each image to leave out, with its annotations.
    """
    if not found and not left_out:
        return dict(content)
    images = [
        {**image, "file_name": found.get(image["file_name"], image["file_name"])}
        for image in content["images"]
        if image["file_name"] not in left_out
    ]
    result = {**content, "images": images}
    if left_out and "annotations" in content:
        dropped = {x["id"] for x in content["images"] if x["file_name"] in left_out}
        result["annotations"] = [x for x in content["annotations"] if x["image_id"] not in dropped]
    return result
