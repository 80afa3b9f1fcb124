"""Findings about images that are not where the annotation file says."""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import unquote

from ...errors import count_words, short_repr
from .findings import Finding, Kind, make_finding
from .image_locations import (
    FIT_OF_ANOTHER,
    NOT_THERE,
    SEVERAL_FIT,
    ImageLocations,
    fold,
    is_url,
)

__all__ = ["SKIP_SETTING", "UNUSABLE_FILE", "advise_skipping", "find_location_findings"]

_FOUND = Kind(
    "image_found_by_name",
    "{image is|images are} not where file_name says and {was|were} found by the end of the name",
    "Check that they are the right images.",
)
UNUSABLE_FILE = "unusable_image_file"  # the name of several kinds
# What to do about the problems of files, and about all others.
_REMEDIES = {
    SEVERAL_FIT: "Write the folder into file_name.",
    FIT_OF_ANOTHER: "Correct file_name, or delete the images that there are no files of.",
}
_CORRECT_FOLDER = "Is the folder of the images correct?"
_CORRECT_NAME = "Is file_name correct?"  # in a dataset without a folder
SKIP_SETTING = "FCOS_TRAIN.SKIP_UNREADABLE_IMAGES True"  # of a YAML config
_OTHER_FOLDER = "{is|are} of another folder than the image that was found"


def find_location_findings(
    locations: ImageLocations, *, skip_unreadable: bool = False, skip_setting: str = ""
) -> Iterator[Finding]:
    """
    Yield findings about images that were found by base name, and about those that cannot be used.

    Args:
        locations (ImageLocations): The result of ``locate_images``.
        skip_unreadable (bool): Images that cannot be used are left out, if there are others.
        skip_setting (str): What would leave them out, for errors; "" if nothing would.
    """
    if locations.found:
        yield _make_found(locations)
    is_fatal = not skip_unreadable or len(locations.problems) == locations.total
    by_problem = defaultdict(list)
    for name, problem in locations.problems.items():
        by_problem[problem].append(name)
    for problem, names in by_problem.items():
        finding = _make_unusable(locations, problem, names, is_fatal)
        yield advise_skipping(finding, skip_setting) if is_fatal else finding


def advise_skipping(finding: Finding, skip_setting: str) -> Finding:
    """Name the setting that leaves out the images of a finding, if there is one."""
    if not skip_setting:
        return finding
    return finding._replace(text=f"{finding.text} {skip_setting} trains without such images.")


def _make_found(locations: ImageLocations) -> Finding:
    """Make the finding about images that were found by the end of the name."""
    spellings = {name: _describe_spelling(name, path) for name, path in locations.found.items()}
    # The one that is most probably wrong is shown.
    name = next(
        (x for x, text in spellings.items() if text == _OTHER_FOLDER), next(iter(spellings))
    )
    kind = _FOUND._replace(remedy=f"{_count(spellings.values())} {_FOUND.remedy}")
    first = f"{short_repr(name)}, found as {short_repr(locations.found[name])}"
    names = [name, *(x for x in spellings if x != name)]
    return make_finding(kind, names, first, total=locations.total, file_name=name)


def _make_unusable(
    locations: ImageLocations, problem: str, names: Sequence[str], is_fatal: bool
) -> Finding:
    """Make the finding about images with the same problem."""
    file = locations.path(names[0])
    first = short_repr(os.path.abspath(file))
    if names[0] in locations.similar:
        first += f"; there is {' and '.join(map(short_repr, locations.similar[names[0]][:3]))}"
    correct = _CORRECT_FOLDER if locations.folder else _CORRECT_NAME
    texts = [_REMEDIES.get(problem, correct) if is_fatal else "They are left out."]
    if problem == NOT_THERE:
        texts.insert(0, _count(_describe_missing(name, locations) for name in names))
    kind = Kind(UNUSABLE_FILE, f"images {problem}", " ".join(texts), is_fatal)
    finding = make_finding(kind, names, first, total=locations.total, file_name=names[0])
    return finding._replace(file=file)


def _count(spellings: Iterable[str]) -> str:
    """Return a sentence with the number of names in each spelling."""
    parts = Counter(spellings).most_common()
    return ", ".join(count_words(n, f"{{name|names}} {text}") for text, n in parts) + "."


def _describe_missing(name: str, locations: ImageLocations) -> str:
    """Describe how the name of a missing image is written."""
    if name in locations.similar:
        return "{differs|differ} in the extension from a file there"
    return _describe_spelling(name, None)


def _describe_spelling(name: str, path: str | None) -> str:
    """
    Describe how a name that is not a path below the folder is written.

    Args:
        name (str): The name.
        path (str | None): The path of its image below the folder, if it was found.
    """
    if is_url(name):
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
        folder, found_folder = os.path.dirname(name), os.path.dirname(path)
        if folder and found_folder:
            return _OTHER_FOLDER
        return "{has|have} other folders" if folder else "{lacks|lack} the subfolder"
    if unicodedata.normalize("NFC", base) == unicodedata.normalize("NFC", found_base):
        return "{has|have} another Unicode form (NFC or NFD)"
    is_same = fold(base) == fold(found_base)
    return "{differs|differ} in upper and lower case" if is_same else "{lacks|lack} the extension"
