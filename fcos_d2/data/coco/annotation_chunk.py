"""Normalization of some annotations, column by column."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .annotation_kinds import (
    AREA,
    BOX_DERIVED,
    CROWD_VALUE,
    IGNORE,
    KEYPOINTS,
    MISSING_AREA,
    MISSING_CROWD,
    NO_BOX,
    NO_CATEGORY,
    NO_IMAGE,
    NO_REFERENCE,
    NUM_KEYPOINTS,
    REFERENCE_TYPE,
    VISIBILITY,
)
from .box_checks import (
    LEFT_OUT,
    NO_BOX_NUMBERS,
    REMOVED,
    find_box_kinds,
    read_boxes,
    read_numbers,
)
from .category_list import Categories
from .crowds import CROWD, read_crowd
from .findings import Kind
from .image_list import Images
from .keypoint_fields import (
    are_counts,
    are_keypoints,
    count_labeled,
    has_other_visibility,
    is_count,
)
from .numbering import Numbering, is_id
from .segmentations import SEGMENTATION_KINDS, box_of_segmentation, read_segmentations

__all__ = ["Chunk", "References"]

Array = NDArray[Any]
Entry = dict[str, Any]

# How far an area may differ from those of box and mask before they contradict each other.
_AREA_FACTOR, _AREA_SLACK = 1.5, 16
_LEAST_AREA = 0.01  # of the box, for objects whose mask is unknown


class References(NamedTuple):
    """
    What annotations refer to.

    Attributes:
        images (Numbering): The ids of the images.
        categories (Numbering): The ids of the categories.
        numbers (array): (N,) the numbers of the images in ascending order.
        sizes (array): (N, 2) their widths and heights.
    """

    images: Numbering
    categories: Numbering
    numbers: Array
    sizes: Array

    @classmethod
    def of(cls, images: Images, categories: Categories) -> "References":
        """Sort the images by number."""
        numbers = np.array([x["id"] for x in images.entries], np.int64)
        order = np.argsort(numbers)
        return cls(images.numbering, categories.numbering, numbers[order], images.sizes[order])

    def sizes_of(self, image_numbers: Array) -> Array:
        """Return width and height of images by their numbers."""
        return self.sizes[np.searchsorted(self.numbers, image_numbers)]


class Chunk:
    """
    Some annotations, what is wrong with them, and what changes.

    ``normalize`` fills the attributes.

    Attributes:
        entries (list[dict]): The annotations that belong to an image.
        rows (array): (N,) their positions in the list of the file.
        found (dict[Kind, array]): The rows with each kind of problem.
        boxes (array): (N, 4) float, [x, y, width, height]; NaN where a box is not valid.
        derived_boxes (dict[int, Any]): The boxes, or None, by row of annotations without a bbox.
        is_trained (array): (N,) bool, whether training uses the box.
        image_numbers (array): (N,) int64.
        category_numbers (array): (N,) int64; -1 for unknown ones.
    """

    def __init__(self, entries: Sequence[Entry], rows: Array, references: References) -> None:
        self.entries = list(entries)
        self.rows = rows
        self.found: dict[Kind, Array] = {}
        self._references = references
        self._changes: dict[str, dict[int, Any]] = {}  # new values by field and position

    def normalize(self, new_ids: dict[int, int]) -> list[Entry]:
        """
        Normalize the annotations.

        Args:
            new_ids (dict[int, int]): The ids by row of annotations whose own ids are not valid.

        Returns:
            list[dict]: The annotations that remain, with shared entries where nothing changed.
        """
        self.image_numbers = self._read_image_numbers()
        self.category_numbers = self._read_category_numbers()
        is_crowd = self._read_crowds()
        sizes = self._references.sizes_of(self.image_numbers)
        mask_areas = self._read_segmentations(sizes)
        is_removed = self._read_boxes(sizes, mask_areas)
        self.is_trained &= ~is_crowd
        self._read_areas(mask_areas)
        self._count_keypoints()
        self._check_other_fields(is_crowd)
        self._change_ids(new_ids)
        self._apply_changes()
        if not is_removed.any():
            return self.entries
        return [self.entries[i] for i in np.flatnonzero(~is_removed).tolist()]

    def _column(self, field: str) -> list[Any]:
        """Return the values of a field; None where it is missing."""
        try:
            return list(map(itemgetter(field), self.entries))  # twice as fast as get
        except KeyError:
            return [x.get(field) for x in self.entries]

    def _add(self, kind: Kind, where: Array | Sequence[int]) -> None:
        """Note a problem of some annotations, which are given by position or as (N,) bool."""
        rows = self.rows[where] if len(where) else np.zeros(0, np.int64)
        if len(rows):
            known = self.found.get(kind)
            self.found[kind] = rows if known is None else np.union1d(known, rows)

    def _change(self, field: str, values: dict[int, Any]) -> None:
        """Change a field of annotations to the values by position."""
        if values:
            self._changes[field] = values

    def _change_ids(self, new_ids: Mapping[int, int]) -> None:
        """Replace ids."""
        if new_ids:
            rows = enumerate(self.rows.tolist())
            self._change("id", {i: new_ids[row] for i, row in rows if row in new_ids})

    def _apply_changes(self) -> None:
        """Change copies of the annotations."""
        for i in set().union(*self._changes.values()):
            self.entries[i] = self.entries[i].copy()
        for field, values in self._changes.items():
            for i, value in values.items():
                self.entries[i][field] = value
        for i, value in self._changes.get("segmentation", {}).items():
            if value is None:  # nothing is left of it
                del self.entries[i]["segmentation"]

    def _read_image_numbers(self) -> Array:
        """Drop the annotations without an image, and return the numbers of the others' images."""
        own = self._column("image_id")
        numbers = self._references.images.look_up(own)
        unknown = np.flatnonzero(numbers < 0).tolist()
        if unknown:
            self._add(NO_IMAGE, [i for i in unknown if is_id(own[i])])
            self._add(NO_REFERENCE, [i for i in unknown if not is_id(own[i])])
            known = np.flatnonzero(numbers >= 0).tolist()
            self.entries, self.rows = [self.entries[i] for i in known], self.rows[known]
            own, numbers = [own[i] for i in known], numbers[known]
        self._change_references("image_id", own, numbers, self._references.images)
        return numbers

    def _read_category_numbers(self) -> Array:
        """Return the number of each category; -1 for unknown ones."""
        own = self._column("category_id")
        numbers = self._references.categories.look_up(own)
        unknown = np.flatnonzero(numbers < 0).tolist()
        self._add(NO_CATEGORY, [i for i in unknown if is_id(own[i])])
        self._add(NO_REFERENCE, [i for i in unknown if not is_id(own[i])])
        self._change_references("category_id", own, numbers, self._references.categories)
        return numbers

    def _change_references(
        self, field: str, own: Sequence[Any], numbers: Array, numbering: Numbering
    ) -> None:
        """Replace ids by numbers."""
        is_integer = set(map(type, own)) <= {int}
        if is_integer and numbering.is_own:
            return
        if numbering.is_own:
            is_known = numbers >= 0
            others = [i for i, x in enumerate(own) if type(x) is not int and is_known[i]]
            self._add(REFERENCE_TYPE, others)
        pairs = enumerate(zip(own, numbers.tolist(), strict=True))
        self._change(field, {i: y for i, (x, y) in pairs if type(x) is not int or x != y})

    def _read_crowds(self) -> Array:
        """Return whether each annotation is a crowd."""
        values = self._column("iscrowd")
        if set(map(type, values)) <= {int} and set(values) <= {0, 1}:
            crowds = np.fromiter(values, bool, len(values))
        else:
            read = [read_crowd(x) for x in values]
            crowds = np.array(list(map(bool, read)), bool)
            pairs = enumerate(zip(values, read, strict=True))
            self._change(
                "iscrowd", {i: y for i, (x, y) in pairs if type(x) is not int and y is not None}
            )
            self._add(CROWD_VALUE, [i for i, x in enumerate(read) if x is None])
            self._add(MISSING_CROWD, [i for i, x in enumerate(values) if x is None])
        self._add(CROWD, crowds)
        return crowds

    def _read_segmentations(self, sizes: Array) -> Array:
        """Return the areas of the masks; NaN where there is none."""
        segmentations = read_segmentations(self._column("segmentation"), sizes)
        for kind, where in segmentations.rows.items():
            self._add(kind, where)
        self._change("segmentation", segmentations.repaired)
        return segmentations.areas

    def _read_boxes(self, sizes: Array, mask_areas: Array) -> Array:
        """Set ``boxes`` and ``is_trained``, and return which annotations cannot remain."""
        values = self._column("bbox")
        missing = [i for i, x in enumerate(values) if x is None or x == []]
        for i in missing:
            values[i] = self._box_of_segmentation(i)
        self.boxes, is_valid = read_boxes(values)
        self._add(NO_BOX_NUMBERS, np.setdiff1d(np.flatnonzero(~is_valid), missing))
        has_no_area = (self.boxes[:, 2:] == 0).any(1) & (mask_areas > 0)
        for i in np.flatnonzero(has_no_area).tolist():
            missing.append(i)
            values[i] = self.boxes[i] = self._box_of_segmentation(i)
        self._change("bbox", {i: values[i] for i in missing})
        self.derived_boxes = {int(self.rows[i]): values[i] for i in missing}
        self._add(BOX_DERIVED, [i for i in missing if values[i] is not None])
        self._add_unknown_boxes([i for i in missing if values[i] is None])
        is_removed = ~is_valid
        self.is_trained = is_valid.copy()
        for kind, where in find_box_kinds(self.boxes, sizes).items():
            if not where.any():
                continue
            where &= is_valid
            self._add(kind, where)
            if kind in LEFT_OUT:
                self.is_trained &= ~where
            if kind in REMOVED:
                is_removed |= where
        return is_removed

    def _box_of_segmentation(self, position: int) -> list[float] | None:
        """Return the box around the segmentation, as far as it could be repaired."""
        repaired = self._changes.get("segmentation", {})
        own = self.entries[position].get("segmentation")
        return box_of_segmentation(repaired.get(position, own))

    def _add_unknown_boxes(self, where: Sequence[int]) -> None:
        """Note that some boxes are unknown, instead of what is wrong with the segmentations."""
        if not where:
            return
        for kind in SEGMENTATION_KINDS:
            rows = np.setdiff1d(self.found.pop(kind, []), self.rows[where])
            if len(rows):
                self.found[kind] = rows
        self._add(NO_BOX, where)

    def _read_areas(self, mask_areas: Array) -> None:
        """Compute missing areas, and check the others."""
        values = self._column("area")
        areas = read_numbers(values)
        box_areas = self.boxes[:, 2] * self.boxes[:, 3]
        has_mask = np.isfinite(mask_areas)
        # Tools also write 0 for an unknown area.
        can_be_0 = (box_areas == 0) | (mask_areas == 0)
        is_missing = ~(np.isfinite(areas) & (areas >= 0) & ((areas > 0) | can_be_0))
        if is_missing.any():
            self._add(MISSING_AREA, is_missing)
            derived = np.where(has_mask, mask_areas, box_areas)
            where = np.flatnonzero(is_missing)
            self._change("area", dict(zip(where.tolist(), derived[where].tolist(), strict=True)))
        least = np.where(
            has_mask,
            np.fmin(mask_areas, box_areas) / _AREA_FACTOR - _AREA_SLACK,
            _LEAST_AREA * box_areas / _AREA_FACTOR,
        )
        most = np.fmax(mask_areas, box_areas) * _AREA_FACTOR + _AREA_SLACK
        is_wrong = (areas < least) | (areas > most)
        self._add(AREA, is_wrong & self.is_trained & ~is_missing)

    def _count_keypoints(self) -> None:
        """Count the labeled keypoints where the file has no valid number of them."""
        numbers = [x.get("num_keypoints", 0) for x in self.entries]
        if are_counts(numbers):
            return
        wrong = [i for i, x in enumerate(numbers) if not is_count(x)]
        self._add(NUM_KEYPOINTS, wrong)
        counts = {}
        for i in wrong:
            keypoints = self.entries[i].get("keypoints")
            counts[i] = count_labeled(keypoints) if keypoints and are_keypoints(keypoints) else 0
        self._change("num_keypoints", counts)

    def _check_other_fields(self, is_crowd: Array) -> None:
        """Check the fields that are only passed on."""
        ignored = self._column("ignore")
        if any(ignored):
            # With iscrowd = 1, COCO's evaluation does not read it.
            self._add(IGNORE, [i for i, x in enumerate(ignored) if x and not is_crowd[i]])
        keypoints = self._column("keypoints")
        if any(keypoints):
            are_valid = list(map(are_keypoints, keypoints))
            self._add(KEYPOINTS, [i for i, is_valid in enumerate(are_valid) if not is_valid])
            labeled = (i for i, x in enumerate(keypoints) if x and are_valid[i])
            self._add(VISIBILITY, [i for i in labeled if has_other_visibility(keypoints[i])])
