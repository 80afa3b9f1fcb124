"""
The search for the images of an annotation file.

If a ``file_name`` is not a path below the folder of the images, the image is found by the last part
of the name, if only one file in the folder and its subfolders has it. See ``image_names``.
"""

import os
import stat
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from PIL import Image

from .findings import Kind
from .image_names import fold, gives_other_folder, is_in_named_folder, possible_paths
from .location_kinds import (
    DEAD_LINK,
    ELSEWHERE,
    EMPTY,
    FIT_OF_ANOTHER,
    MISSING,
    NOT_A_FILE,
    OTHER_EXTENSION,
    SEVERAL_FIT,
    SEVERAL_SPELLINGS,
    not_opened,
)

__all__ = ["ImageLocations", "locate_images", "with_locations"]


class ImageLocations(NamedTuple):
    """
    Where the images of an annotation file are.

    Attributes:
        folder (str): The folder of the images.
        total (int): The number of different file names.
        found (dict[str, str]): The path below the folder, for each ``file_name`` that is not a path
            itself.
        problems (dict[str, Kind]): What is wrong, for each image that cannot be used.
        similar (dict[str, list[str]]): The paths below the folder of files that fit a name, but
            are not used: others fit too, or they are in another folder, or only the name without
            the extension fits.
    """

    folder: str
    total: int
    found: dict[str, str]
    problems: dict[str, Kind]
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
    missing = [name for name, problem in problems.items() if problem is MISSING]
    found: dict[str, str] = {}
    similar: dict[str, list[str]] = {}
    if missing:
        existing = [name for name, problem in problems.items() if problem is not MISSING]
        fitting, similar = _find_by_base_name(missing, folder)
        problems |= dict.fromkeys(similar, OTHER_EXTENSION)
        # A name that is a file can be written in another way, such as "./1.png".
        taken = [os.path.relpath(os.path.join(folder, name), folder) for name in existing]
        for name, problem in _find_problems_of_fits(fitting, taken, len(problems), folder).items():
            if problem is None:
                found[name] = fitting[name][0]
                problem = _problem_of_file(os.path.join(folder, found[name]))
            else:
                similar[name] = fitting[name]
            problems[name] = problem
    unusable = {name: problem for name, problem in problems.items() if problem is not None}
    return ImageLocations(folder, len(problems), found, unusable, similar)


def _problem_of_file(file: str) -> Kind | None:
    """Return what is wrong with a file; None if nothing is."""
    try:
        status = os.stat(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: it cannot be a path
        return DEAD_LINK if os.path.islink(file) else MISSING
    except OSError as error:
        return not_opened(error.strerror)
    if not stat.S_ISREG(status.st_mode):
        return NOT_A_FILE
    return None if status.st_size else EMPTY


def _find_problems_of_fits(
    fitting: Mapping[str, Sequence[str]], taken: Sequence[str], total: int, folder: str
) -> dict[str, Kind | None]:
    """
    Decide which files that fit names are used.

    A file in another folder than the name gives can be another image with the same base name, such
    as a mask. It is used if most names do not give the right folder. Otherwise it is used only if
    it is beside images of other names, and the name gives no other folder that exists: it is then
    written in another way, such as a path of another machine.

    Args:
        fitting (dict[str, list[str]]): The best files for each name.
        taken (list[str]): The files of other names.
        total (int): The number of all names.
        folder (str): The folder of the images.

    Returns:
        dict[str, Kind | None]: Why the file is not used, for each name; None if it is used.
    """
    single = {name: paths[0] for name, paths in fitting.items() if len(paths) == 1}
    in_place = {name: path for name, path in single.items() if is_in_named_folder(name, path)}
    num_names = Counter([*taken, *single.values()])
    num_in_place = Counter([*taken, *in_place.values()])
    uses_others = 2 * (len(taken) + len(in_place)) < total
    folders = {os.path.dirname(path) for path in num_in_place}
    problems: dict[str, Kind | None] = {}
    for name, paths in fitting.items():
        if len(paths) > 1:
            is_one_folder = len(set(map(os.path.dirname, paths))) == 1
            problems[name] = SEVERAL_SPELLINGS if is_one_folder else SEVERAL_FIT
        elif (num_in_place if name in in_place else num_names)[paths[0]] > 1:
            problems[name] = FIT_OF_ANOTHER
        elif name in in_place or uses_others:
            problems[name] = None
        else:
            is_beside_others = os.path.dirname(paths[0]) in folders
            is_used = is_beside_others and not gives_other_folder(name, paths[0], folder)
            problems[name] = None if is_used else ELSEWHERE
    return problems


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
        stem, suffix = os.path.splitext(fold(possible_paths(name)[-1][-1]))
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


def _best_candidates(
    name: str, by_base: Mapping[str, list[str]], by_stem: Mapping[str, list[str]]
) -> list[str]:
    """
    Return the files that fit a name best.

    These are the files with the same last part. Of several, those in the folder that the name gives
    are the best, then those with the most equal folders at the end of the path, and then those in
    the same case and Unicode form.
    """
    for parts in possible_paths(name):
        candidates = by_base.get(fold(parts[-1])) or by_stem.get(fold(parts[-1])) or []
        if len(candidates) == 1:
            return candidates
        ranks = {
            path: (is_in_named_folder(name, path), *_similarity(parts, PurePosixPath(path).parts))
            for path in candidates
        }
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
