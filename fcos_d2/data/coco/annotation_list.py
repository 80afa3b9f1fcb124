"""
Normalization of the list of annotations of an annotation file.

The list may have millions of entries, so that it is read in chunks. Only entries that change are
copied.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import agree, listed, short_repr
from .annotation_chunk import Chunk, References
from .annotation_kinds import (
    FRACTIONS,
    ID_KINDS,
    IDENTICAL,
    NO_CATEGORY,
    NO_IMAGE,
    NOT_AN_OBJECT,
    REPEATED_BOX,
    SCALES,
    SOME_FRACTIONS,
    TINY,
)
from .box_checks import LEFT_OUT
from .category_list import Categories
from .crowds import CROWD
from .findings import Finding, Kind, make_entry_finding, make_finding
from .image_list import Images
from .numbering import find_identical, number_annotations
from .repeated_boxes import find_repeated

__all__ = ["NO_USABLE_BOX", "UNUSED_CLASSES", "normalize_annotations"]

Array = NDArray[Any]

# Names of kinds that matter only for training sets, or mean something else for test sets.
NO_USABLE_BOX, UNUSED_CLASSES = "no_usable_box", "class_unused"

_CHUNK = 20_000
_TINY_SIDE = 2  # pixels
_LARGEST_FRACTION = 1.001  # of rounded numbers
_MOST_FRACTIONS = 0.01  # the share of boxes that may be fractions of a pixel without a warning
_EMPTY = "The list 'annotations' is empty. Export the file again, with the boxes of the objects."
# The kinds of boxes that training does not use.
_UNUSED = tuple(x.name for x in (NO_IMAGE, CROWD, *LEFT_OUT))


class Annotations(NamedTuple):
    """
    The normalized annotations of an annotation file.

    Attributes:
        entries (list[dict]): The annotations, without those that belong to no image or have a box
            that no COCO file can have.
        file_ids (dict[int, Any]): The file's own ids that differ from the new ones, by new id.
        findings (list[Finding]): What was found.
    """

    entries: list[dict[str, Any]]
    file_ids: dict[int, Any]
    findings: list[Finding]


def normalize_annotations(
    entries: Sequence[Any], images: Images, categories: Categories
) -> Annotations:
    """
    Normalize the list of annotations; see ``normalize``.

    Args:
        entries (list): The list of the file.
        images (Images): The normalized images.
        categories (Categories): The normalized categories.
    """
    found: dict[Kind, list[Array]] = defaultdict(list)
    rows = np.arange(len(entries))
    valid = entries
    if not set(map(type, entries)) <= {dict}:
        is_object = np.array([isinstance(x, dict) for x in entries])
        found[NOT_AN_OBJECT].append(rows[~is_object])
        rows, valid = rows[is_object], [x for x in entries if isinstance(x, dict)]
    numbers, id_faults = number_annotations([x.get("id") for x in valid])
    if id_faults and (identical := find_identical(valid)):
        found[IDENTICAL].append(rows[identical])
        rows = np.delete(rows, identical)
        valid = [entries[row] for row in rows.tolist()]
        numbers, id_faults = number_annotations([x.get("id") for x in valid])
    new_ids = {int(rows[i]): number for i, number in numbers.items()}
    for fault, positions in id_faults.items():
        found[ID_KINDS[fault]].append(rows[positions])
    references = References.of(images, categories)
    summary = _Summary()
    normalized: list[dict[str, Any]] = []
    derived: dict[int, Any] = {}
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        chunk = Chunk(valid[part], rows[part], references)
        normalized += chunk.normalize(new_ids)
        for kind, where in chunk.found.items():
            found[kind].append(where)
        derived |= chunk.derived_boxes
        summary.add(chunk)
    if images.sizes.max(initial=0) > _TINY_SIDE:
        found |= summary.find_scale()
    found |= summary.find_repeated()
    # Without their causes, these would go away.
    if any(x.is_fatal for x in images.findings):
        found.pop(NO_IMAGE, None)
    if any(x.is_fatal for x in categories.findings):
        found.pop(NO_CATEGORY, None)
    totals = {CROWD: len(rows), **dict.fromkeys((*SCALES, REPEATED_BOX), summary.num_boxes)}
    findings = [
        _make(kind, np.concatenate(parts).tolist(), entries, images, derived, totals.get(kind))
        for kind, parts in found.items()
    ]
    if summary.counts:
        findings += _find_unused_classes(categories.entries, summary.counts)
    elif not any(x.is_fatal for x in (*images.findings, *categories.findings, *findings)):
        findings = _explain_lack_of_boxes(findings)
    return Annotations(normalized, _own_ids(entries, new_ids), findings)


def _own_ids(entries: Sequence[Any], new_ids: Mapping[int, int]) -> dict[int, Any]:
    """Return the own ids of the annotations that have one, by their new ids."""
    own_ids = {number: entries[row].get("id") for row, number in new_ids.items()}
    return {number: own_id for number, own_id in own_ids.items() if own_id is not None}


class _Summary:
    """
    What all boxes that training uses have in common.

    Attributes:
        counts (Counter[int]): Number of boxes by category number.
    """

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self._largest_side = 0.0
        self._rows: list[Array] = []
        self._objects: list[Array] = []  # (N, 6): image, category and box
        self._fractions: list[Array] = []

    def add(self, chunk: Chunk) -> None:
        """Add the boxes of normalized annotations."""
        used = chunk.is_trained
        boxes, rows = chunk.boxes[used], chunk.rows[used]
        category_numbers = chunk.category_numbers[used]
        numbers, counts = np.unique(category_numbers, return_counts=True)
        self.counts.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
        self._largest_side = max(self._largest_side, boxes[:, 2:].max(initial=0))
        is_fraction = ((boxes >= 0) & (boxes <= _LARGEST_FRACTION)).all(1) & (boxes % 1 != 0).any(1)
        self._rows.append(rows)
        self._objects.append(np.column_stack([chunk.image_numbers[used], category_numbers, boxes]))
        self._fractions.append(rows[is_fraction])

    @property
    def num_boxes(self) -> int:
        """The number of boxes."""
        return sum(map(len, self._rows))

    def find_scale(self) -> dict[Kind, list[Array]]:
        """Return the rows of boxes that seem to be fractions of the image, or in another unit."""
        num_fractions = sum(map(len, self._fractions))
        if num_fractions > _MOST_FRACTIONS * self.num_boxes:
            is_most = 2 * num_fractions >= self.num_boxes
            return {FRACTIONS if is_most else SOME_FRACTIONS: self._fractions}
        return {TINY: self._rows} if self.counts and self._largest_side < _TINY_SIDE else {}

    def find_repeated(self) -> dict[Kind, list[Array]]:
        """Return the rows of boxes that an earlier annotation has, too."""
        if not self._objects:
            return {}
        repeated = find_repeated(np.concatenate(self._objects))
        return {REPEATED_BOX: [np.concatenate(self._rows)[repeated]]} if len(repeated) else {}


def _make(
    kind: Kind,
    rows: Sequence[int],
    entries: Sequence[Any],
    images: Images,
    derived: Mapping[int, Any],
    total: int | None,
) -> Finding:
    """Make the finding about the annotations in these rows; ``derived`` has boxes by row."""
    first = entries[rows[0]]
    if kind is NOT_AN_OBJECT:
        return make_entry_finding(kind, "annotations", entries, rows)
    (number,) = images.numbering.look_up([first.get("image_id")]).tolist()
    name = next((x["file_name"] for x in images.entries if x["id"] == number), None)
    own_id = first.get("id")
    position = f"annotations[{rows[0]}]" if own_id is None else f"annotation {short_repr(own_id)}"
    value = first.get(kind.field) if kind.field else None
    if kind.field == "bbox" and rows[0] in derived:
        value = derived[rows[0]]
    return make_finding(
        kind,
        [_id_or_position(entries[row], row) for row in rows],
        position if name is None else f"{position} of {short_repr(name)}",
        total=total,
        file_name=name,
        value=value,
    )


def _id_or_position(entry: Mapping[str, Any], row: int) -> Any:
    """Return the id of an annotation, or its position in the file if it has none."""
    own_id = entry.get("id")
    return f"annotations[{row}]" if own_id is None else own_id


def _explain_lack_of_boxes(findings: Sequence[Finding]) -> list[Finding]:
    """Replace the most frequent reason why boxes are not used by the finding that none can be."""
    reasons = [x for x in findings if x.kind in _UNUSED]
    if not reasons:
        return [*findings, Finding(NO_USABLE_BOX, False, 0, _EMPTY)]
    reason = max(reasons, key=lambda x: x.count)
    return [x for x in findings if x is not reason] + [
        reason._replace(kind=NO_USABLE_BOX, reason=reason.kind)
    ]


def _find_unused_classes(
    categories: Sequence[dict[str, Any]], counts: Mapping[int, int]
) -> Iterator[Finding]:
    """Yield the classes without a box."""
    names = [x["name"] for x in categories if not counts.get(x["id"])]
    if names:
        what = agree("{class has|classes have} no box to learn from", len(categories))
        text = (
            f"{len(names)} of {len(categories)} {what}: {listed(names)}. Roboflow's root class is "
            "an example. FCOS_TRAIN.DROP_CLASSES (in a LazyConfig train.drop_classes) leaves "
            "classes out."
        )
        yield Finding(UNUSED_CLASSES, False, len(names), text, names)
