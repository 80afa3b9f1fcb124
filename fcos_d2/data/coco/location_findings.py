"""Findings about images that are not where the annotation file says."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from ...errors import count_words, listed, short_repr
from .findings import Finding, Kind, make_finding
from .image_locations import ImageLocations
from .image_names import OTHER_FOLDER, describe_spelling, is_relative_path
from .location_kinds import ELSEWHERE, FOUND, MISSING

__all__ = ["SKIP_SETTING", "advise_skipping", "find_location_findings"]

SKIP_SETTING = "FCOS_TRAIN.SKIP_UNREADABLE_IMAGES True"  # of a YAML config
_CORRECT_NAME = "Is file_name correct?"  # in a dataset without a folder
_MOST_NAMES, _MOST_CHARACTERS = 8, 60  # of names that messages list


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
    spellings = {name: describe_spelling(name, path) for name, path in locations.found.items()}
    # The one that is most probably wrong is shown.
    name = next((x for x, text in spellings.items() if text == OTHER_FOLDER), next(iter(spellings)))
    kind = FOUND._replace(remedy=f"{_count(spellings.values())} {FOUND.remedy}")
    first = f"{short_repr(name)}, found as {short_repr(locations.found[name])}"
    names = [name, *(x for x in spellings if x != name)]
    return make_finding(kind, names, first, total=locations.total, file_name=name)


def _make_unusable(
    locations: ImageLocations, kind: Kind, names: Sequence[str], is_fatal: bool
) -> Finding:
    """Make the finding about images with the same problem."""
    file = locations.path(names[0])
    is_path = is_relative_path(names[0])
    first = short_repr(os.path.abspath(file) if is_path else names[0])
    if names[0] in locations.similar:
        first += f"; there is {' and '.join(map(short_repr, locations.similar[names[0]][:3]))}"
    remedy = _CORRECT_NAME if kind is MISSING and not locations.folder else kind.remedy
    texts = [remedy if is_fatal else "{It is|They are} left out."]
    # Names in a dataset without a folder are paths, as they should be.
    if kind in (MISSING, ELSEWHERE) and locations.folder:
        texts.insert(0, _count(_describe_missing(name, locations) for name in names))
    kind = kind._replace(remedy=" ".join(texts), is_fatal=is_fatal)
    finding = make_finding(kind, names, first, total=locations.total, file_name=names[0])
    return finding._replace(file=file, text=finding.text + _list_names(names))


def _list_names(names: Sequence[str]) -> str:
    """Return a sentence with the first of several names, to be added to a text."""
    if len(names) == 1:
        return ""
    shown = [short_repr(name, _MOST_CHARACTERS) for name in names]
    hint = "; `fcos-d2 check-dataset --json` lists all" if len(names) > _MOST_NAMES else ""
    return f" The names are {listed(shown, _MOST_NAMES)}{hint}."


def _count(spellings: Iterable[str]) -> str:
    """Return a sentence with the number of names in each spelling."""
    parts = Counter(spellings).most_common()
    return ", ".join(count_words(n, f"{{name|names}} {text}") for text, n in parts) + "."


def _describe_missing(name: str, locations: ImageLocations) -> str:
    """Describe how the name of an image that is missing or elsewhere is written."""
    similar = locations.similar.get(name)
    return describe_spelling(name, similar[0] if similar else None)
