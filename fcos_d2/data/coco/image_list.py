"""Normalization of the list of images of an annotation file."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import short_repr
from .box_checks import is_finite
from .findings import Finding, Kind, make_entry_finding, make_finding
from .numbering import Numbering, find_identical, is_id, number_ids, other_ids

__all__ = [
    "NO_SIZE",
    "Images",
    "ReadSize",
    "file_names",
    "is_image",
    "make_size_finding",
    "normalize_images",
]

ReadSize = Callable[[str], tuple[int, int] | None]

_LARGEST_SIDE = 2**31 - 1

_EMPTY = "The list 'images' is empty. Export the file again, with the images."
WRONG_ENTRY = Kind(
    "image_entry",
    "{image|images} of the file {is|are} not valid: an image needs an id (a number or a text) and "
    "a file_name (a text)",
    "Complete or delete {it|them}.",
    is_fatal=True,
)
REPEATED_ID = Kind(
    "image_id_repeated",
    "{image has|images have} the id of an earlier image",
    "Give each image a different id.",
    is_fatal=True,
    field="id",
)
IDENTICAL = Kind(
    "image_identical",
    "{image is|images are} listed more than once with the same id and content",
    "Only the first of each is used.",
)
OTHER_ID = Kind(
    "image_id",
    "{image has an id|images have ids} that {is not an integer|are not integers} from 0 to 2^53",
    "Numbers such as 1.0 and texts such as '1' keep their value, others get new numbers. Results "
    "have the ids of the file.",
    field="id",
)
NO_SIZE = Kind(
    "image_size_unknown",
    "{image has|images have} no width and height, and the {file|files} cannot be read",
    "Add both, in pixels.",
    is_fatal=True,
    field="width, height",
)
READ_SIZE = Kind(
    "image_size_read",
    "{image has|images have} no valid width and height",
    "They are read from the {file|files}.",
    field="width, height",
)
REPEATED_FILE = Kind(
    "image_repeated",
    "{file is|files are} listed more than once",
    "Each of these images has only some of the boxes, so the other objects count as background. "
    "Merge them into one image.",
)


class Images(NamedTuple):
    """
    The normalized images of an annotation file.

    Attributes:
        entries (list[dict]): The images.
        numbering (Numbering): Their ids.
        file_ids (dict[int, Any]): The file's own ids that differ from the numbers, by number.
        sizes (array): (N, 2) int64, width and height, in the order of ``entries``.
        findings (list[Finding]): What was found.
    """

    entries: list[dict[str, Any]]
    numbering: Numbering
    file_ids: dict[int, Any]
    sizes: NDArray[np.int64]
    findings: list[Finding]


def file_names(parsed: Any) -> list[str]:
    """Return the ``file_name`` of each image in a parsed JSON file, which may be any file."""
    images = parsed.get("images") if isinstance(parsed, dict) else None
    entries = images if isinstance(images, list) else []
    dicts = [x for x in entries if isinstance(x, dict)]
    return [x["file_name"] for x in dicts if _is_file_name(x.get("file_name"))]


def normalize_images(entries: Sequence[Any], read_size: ReadSize | None) -> Images:
    """
    Normalize the list of images; see ``normalize``.

    Args:
        entries (list): The list of the file.
        read_size (Callable): See ``normalize``.
    """
    findings = [Finding("no_images", True, 1, _EMPTY)] if not entries else []
    valid = [x for x in entries if is_image(x)]
    if len(valid) < len(entries):
        rows = [row for row, x in enumerate(entries) if not is_image(x)]
        findings.append(make_entry_finding(WRONG_ENTRY, "images", entries, rows))
    ids = [x["id"] for x in valid]
    numbering = number_ids(ids)
    if len(numbering.numbers) < len(ids) and (identical := set(find_identical(valid))):
        names = [valid[row]["file_name"] for row in sorted(identical)]
        findings.append(make_finding(IDENTICAL, names, short_repr(names[0]), file_name=names[0]))
        valid = [x for row, x in enumerate(valid) if row not in identical]
        ids = [x["id"] for x in valid]
    numbers = numbering.look_up(ids)
    by_number = dict(zip(reversed(numbers.tolist()), reversed(valid), strict=True))
    findings += _find_ids(valid, numbering, [by_number[x] for x in numbers.tolist()])
    sizes, repaired, size_findings = _read_sizes(valid, read_size)
    findings += size_findings
    findings += _find_repeated_files(valid)
    own_ids = {} if numbering.is_own else other_ids({n: x["id"] for n, x in by_number.items()})
    for row, number in enumerate(numbers.tolist() if own_ids else ()):
        if number in own_ids:
            repaired[row] = {**repaired.get(row, {}), "id": number}
    for row, fields in repaired.items():
        valid[row] = {**valid[row], **fields}
    return Images(valid, numbering, own_ids, sizes, findings)


def is_image(entry: Any) -> bool:
    """Check that an image has an id and the name of a file."""
    if not isinstance(entry, dict):
        return False
    return _is_file_name(entry.get("file_name")) and is_id(entry.get("id"))


def _is_file_name(value: Any) -> bool:
    """Check that a value of a JSON file can be the name of an image."""
    return isinstance(value, str) and value not in ("", ".") and "\0" not in value


def _find_ids(
    entries: Sequence[dict[str, Any]], numbering: Numbering, owners: Sequence[dict[str, Any]]
) -> Iterator[Finding]:
    """Yield what is unusual about ids; ``owners`` are the first images with the same id."""
    repeated = [x for x, owner in zip(entries, owners, strict=True) if x is not owner]
    others = [] if numbering.is_own else [x for x in entries if not _is_own(x["id"], numbering)]
    for kind, found in ((REPEATED_ID, repeated), (OTHER_ID, others)):
        if found:
            yield make_finding(
                kind,
                [x["id"] for x in found],
                short_repr(found[0]["file_name"]),
                file_name=found[0]["file_name"],
                value=found[0]["id"],
            )


def _is_own(own_id: Any, numbering: Numbering) -> bool:
    """Check that an id is kept."""
    return type(own_id) is int and numbering.numbers[own_id] == own_id


def _read_sizes(
    entries: Sequence[dict[str, Any]], read_size: ReadSize | None
) -> tuple[NDArray[np.int64], dict[int, dict[str, Any]], list[Finding]]:
    """
    Collect the sizes of images.

    Returns:
        tuple[array, dict, list[Finding]]: (N, 2) int64, width and height, 1 where they are unknown;
        width and height by row, where the entry has other values; and what was found.
    """
    sizes: list[tuple[Any, Any]] = [(x.get("width"), x.get("height")) for x in entries]
    repaired: dict[int, dict[str, Any]] = {}
    rows_by_kind: dict[Kind, list[int]] = {NO_SIZE: [], READ_SIZE: []}
    for row, size in enumerate(sizes):
        if _is_side(size[0]) and _is_side(size[1]):
            continue
        if all(is_finite(x) and x == int(x) and _is_side(int(x)) for x in size):
            known: tuple[int, int] | None = (int(size[0]), int(size[1]))  # 96.0
        else:
            known = read_size(entries[row]["file_name"]) if read_size else None
            rows_by_kind[READ_SIZE if known else NO_SIZE].append(row)
        sizes[row] = width, height = known or (1, 1)
        repaired[row] = {"width": width, "height": height}
    findings = [
        make_size_finding(kind, [entries[row] for row in rows])
        for kind, rows in rows_by_kind.items()
        if rows
    ]
    return np.array(sizes, np.int64).reshape(-1, 2), repaired, findings


def make_size_finding(kind: Kind, entries: Sequence[dict[str, Any]]) -> Finding:
    """Make the finding about the sizes of these images."""
    first = entries[0]
    return make_finding(
        kind,
        [x["file_name"] for x in entries],
        f"image {short_repr(first['id'])}, {short_repr(first['file_name'])}",
        file_name=first["file_name"],
        value=(first.get("width"), first.get("height")),
    )


def _is_side(value: Any) -> bool:
    """Check that a value is a width or height in pixels."""
    return type(value) is int and 0 < value <= _LARGEST_SIDE


def _find_repeated_files(entries: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """Yield the files that several images have in common."""
    files = [os.path.normpath(x["file_name"]) for x in entries]
    if len(set(files)) == len(files):
        return
    repeated = [file for file, count in Counter(files).items() if count > 1]
    ids = [x["id"] for x, file in zip(entries, files, strict=True) if file == repeated[0]]
    first = f"{repeated[0]!r}: images {', '.join(map(str, ids[:8]))}"
    yield make_finding(REPEATED_FILE, repeated, first, file_name=repeated[0])
