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
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from PIL import Image

from .findings import Finding, Kind, count_words, make_finding

__all__ = [
    "UNUSABLE_FILE",
    "ImageLocations",
    "find_location_findings",
    "locate_images",
    "with_locations",
]

_FOUND = Kind(
    "image_found_by_name",
    "{image is|images are} not where file_name says and {was|were} found by the end of the name",
    "Check that they are the right images.",
)
_CORRECT = (
    "Is the folder of the images correct? FCOS_TRAIN.SKIP_UNREADABLE_IMAGES True trains without "
    "such images."
)
UNUSABLE_FILE = "unusable_image_file"  # the name of several kinds
_NOT_THERE = "do not exist"
_SEVERAL_FIT = "do not exist, and several files fit the end of their name"
_IS_ANOTHERS = "do not exist, and the only file that fits the end of their name fits another name"


class ImageLocations(NamedTuple):
    """
    Where the images of an annotation file are.

    Attributes:
        folder (str): The folder of the images.
        total (int): The number of different file names.
        found (dict[str, str]): The path below the folder, for each ``file_name`` that is not a path
            itself.
        spelling (dict[str, str]): How each ``file_name`` that is not a path is written, as it
            continues "3 names ...", for ``findings.agree``.
        problems (dict[str, str]): For each image that cannot be used: what is wrong, as it
            continues "images ...".
    """

    folder: str
    total: int
    found: dict[str, str]
    spelling: dict[str, str]
    problems: dict[str, str]

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
    missing = [name for name, problem in problems.items() if problem == _NOT_THERE]
    found: dict[str, str] = {}
    if missing:
        existing = [name for name, problem in problems.items() if problem != _NOT_THERE]
        found, unclear = _find_by_base_name(missing, existing, folder)
        problems.update(unclear)
    for name, path in found.items():
        problems[name] = _problem_of_file(os.path.join(folder, path))
    return ImageLocations(
        folder,
        len(problems),
        found,
        {name: _describe_spelling(name, found.get(name)) for name in missing},
        {name: problem for name, problem in problems.items() if problem is not None},
    )


def _problem_of_file(file: str) -> str | None:
    """Return what is wrong with a file, as it continues "these files ..."; None if nothing is."""
    try:
        status = os.stat(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: it cannot be a path
        return _NOT_THERE
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return "are not files (but folders or devices)"
    return None if status.st_size else "are empty (0 bytes)"


def _find_by_base_name(
    names: Sequence[str], others: Iterable[str], folder: str
) -> tuple[dict[str, str], dict[str, str]]:
    """
    Find files by the last part of names.

    Args:
        names (list[str]): Names that are not files.
        others (list[str]): The other names, which are files that are taken.
        folder (str): The folder to search, with its subfolders.

    Returns:
        tuple[dict, dict]: The path of each name that is found, and the problem of each name that
        fits several files, or whose file fits another name, too.
    """
    by_base, by_stem = _list_folder(folder)
    best = {name: _best_candidates(name, by_base, by_stem) for name in names}
    found = {name: paths[0] for name, paths in best.items() if len(paths) == 1}
    taken = (os.path.relpath(os.path.join(folder, name), folder) for name in others)
    num_names = Counter([*found.values(), *taken])
    unclear = {name: _SEVERAL_FIT for name, paths in best.items() if len(paths) > 1}
    unclear |= {name: _IS_ANOTHERS for name, path in found.items() if num_names[path] > 1}
    return {name: path for name, path in found.items() if name not in unclear}, unclear


def _list_folder(folder: str) -> tuple[Mapping[str, list[str]], Mapping[str, list[str]]]:
    """List the files below a folder, as relative paths by folded base name and by its stem."""
    image_suffixes = Image.registered_extensions()
    by_base, by_stem = defaultdict(list), defaultdict(list)
    for root, _, files in os.walk(folder):
        for file in files:
            path = os.path.normpath(os.path.join(os.path.relpath(root, folder), file))
            base = _fold(file)
            by_base[base].append(path)
            stem, suffix = os.path.splitext(base)
            if suffix in image_suffixes:
                by_stem[stem].append(path)
    return by_base, by_stem


def _fold(text: str) -> str:
    """Return a text in a form in which case and Unicode form (NFC or NFD) are equal."""
    return unicodedata.normalize("NFC", text).casefold()


def _best_candidates(
    name: str, by_base: Mapping[str, list[str]], by_stem: Mapping[str, list[str]]
) -> list[str]:
    """
    Return the files that fit a name best.

    These are the files with the same last part. Of several, those with the most equal folders at
    the end of the path are the best, and then those in the same case and Unicode form.
    """
    for parts in dict.fromkeys((_split(name), _split(unquote(_path_of_url(name))))):
        candidates = by_base.get(_fold(parts[-1])) or by_stem.get(_fold(parts[-1])) or []
        ranks = {path: _similarity(parts, PurePosixPath(path).parts) for path in candidates}
        if ranks:
            return [path for path, rank in ranks.items() if rank == max(ranks.values())]
    return []


def _similarity(parts: Sequence[str], path: Sequence[str]) -> tuple[int, bool]:
    """Return the number of equal folders at the ends, and whether the last parts are the same."""
    count = 0
    for one, other in zip(reversed(parts[:-1]), reversed(path[:-1]), strict=False):
        if _fold(one) != _fold(other):
            break
        count += 1
    return count, parts[-1] == path[-1]


def _split(name: str) -> tuple[str, ...]:
    """Split a name at slashes and backslashes."""
    return tuple(re.split(r"[/\\]", name))


def _is_url(name: str) -> bool:
    """Return whether a name is a URL."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", name) is not None


def _path_of_url(name: str) -> str:
    """Return the path of a URL, without its query; another name is returned as it is."""
    try:
        return urlsplit(name).path if _is_url(name) else name
    except ValueError:
        return name


def _describe_spelling(name: str, path: str | None) -> str:
    """
    Describe how a name that is not a path below the folder is written.

    Args:
        name (str): The name.
        path (str | None): The path of its image below the folder, if it was found.
    """
    if _is_url(name):
        return "{is a URL|are URLs}"
    if re.match(r"([a-zA-Z]:)?[/\\]", name):
        return "{is an absolute path|are absolute paths}"
    if "\\" in name:
        return "{has|have} backslashes"
    if unquote(name) != name:
        return "{is|are} URL-encoded (such as %20)"
    if path is None:
        return "{does|do} not fit any file there"
    base, found_base = os.path.basename(name), os.path.basename(path)
    if base == found_base:
        return "{has|have} other folders" if "/" in name else "{lacks|lack} the subfolder"
    if unicodedata.normalize("NFC", base) == unicodedata.normalize("NFC", found_base):
        return "{has|have} another Unicode form (NFC or NFD)"
    is_same = _fold(base) == _fold(found_base)
    return "{differs|differ} in upper and lower case" if is_same else "{lacks|lack} the extension"


def find_location_findings(
    locations: ImageLocations, *, skip_unreadable: bool = False
) -> Iterator[Finding]:
    """
    Yield findings about images that were found by base name, and about those that cannot be used.

    Args:
        locations (ImageLocations): The result of ``locate_images``.
        skip_unreadable (bool): Images that cannot be used are left out, if there are others.
    """
    found, problems = locations.found, locations.problems
    if found:
        name, path = next(iter(found.items()))
        remedy = f"{_count_spellings(locations, found)} {_FOUND.remedy}"
        first = f"{name!r}, found as {path!r}"
        yield make_finding(
            _FOUND._replace(remedy=remedy), [*found], first, total=locations.total, file_name=name
        )
    is_fatal = not skip_unreadable or len(problems) == locations.total
    by_problem = defaultdict(list)
    for name, problem in problems.items():
        by_problem[problem].append(name)
    for problem, names in by_problem.items():
        what_to_do = _CORRECT if is_fatal else "They are left out."
        remedy = f"{_count_spellings(locations, names)} {what_to_do}".strip()
        kind = Kind(UNUSABLE_FILE, f"images {problem}", remedy, is_fatal)
        file = locations.path(names[0])
        finding = make_finding(
            kind, names, repr(os.path.abspath(file)), total=locations.total, file_name=names[0]
        )
        yield finding._replace(file=file)


def _count_spellings(locations: ImageLocations, names: Iterable[str]) -> str:
    """Return a sentence with the number of names in each spelling; "" if all are paths."""
    counts = Counter(locations.spelling[name] for name in names if name in locations.spelling)
    parts = [count_words(n, f"{{name|names}} {text}") for text, n in counts.most_common()]
    return f"{', '.join(parts)}." if parts else ""


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
