"""Annotations that cannot be trained with as they are: box, segmentation and keypoints."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any, NamedTuple

from ...errors import InputError

__all__ = [
    "BoxProblem",
    "ProblemKind",
    "find_box_problems",
    "is_finite",
    "short_repr",
    "warnings_of_problems",
]


class ProblemKind(NamedTuple):
    """What is wrong with some boxes, and what comes of it."""

    field: str  # of the annotation
    text: str  # behind "12 boxes"
    consequence: str  # or what is expected, where it is fatal
    is_fatal: bool = False
    is_left_out: bool = True  # of training


class BoxProblem(NamedTuple):
    """A box that cannot be trained with as it is."""

    annotation_id: int | str
    file_name: str
    value: Any  # of the kind's field
    kind: ProblemKind


_BBOX = "A bbox is [x, y, width, height] in pixels."
_LEFT_OUT = "Training leaves them out."
NOT_FOUR_NUMBERS = ProblemKind("bbox", "are not four numbers", _BBOX, is_fatal=True)
# PyTorch cannot make a tensor of them.
TOO_LARGE = ProblemKind("bbox", "are not finite: they have huge integers", _BBOX, is_fatal=True)
NOT_FINITE = ProblemKind("bbox", "are not finite", _LEFT_OUT)
NEGATIVE = ProblemKind(
    "bbox",
    "have a negative width or height (x1, y1, x2, y2 the wrong way round?)",
    _LEFT_OUT,
)
NO_AREA = ProblemKind("bbox", "have no area", _LEFT_OUT)
OUTSIDE = ProblemKind("bbox", "lie outside of their image", _LEFT_OUT)
REACHES_OUT = ProblemKind(
    "bbox",
    "reach out of their image (are they [x1, y1, x2, y2] instead of [x, y, w, h]?)",
    "Training cuts them at its border.",
    is_left_out=False,
)
NO_SEGMENTATION = ProblemKind(
    "segmentation",
    "have a segmentation that is none",
    "It is a list of polygons [x1, y1, x2, y2, ...] or an RLE {'counts': ..., 'size': [height, "
    "width]}; detection needs none: mend or delete it.",
    is_fatal=True,
)
NO_POLYGON = ProblemKind(
    "segmentation",
    "have a segmentation without a polygon of at least 3 points",
    "detectron2 leaves out such annotations, with their boxes: mend or delete the segmentation.",
)
NO_KEYPOINTS = ProblemKind(
    "keypoints",
    "have keypoints that are not a list of numbers",
    "They are [x1, y1, visibility1, ...]; detection needs none: mend or delete them.",
    is_fatal=True,
)


def is_finite(value: Any) -> bool:
    """Whether a value of a JSON file is a number that a float can hold."""
    if not _is_number(value):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def find_box_problems(content: Mapping[str, Any]) -> list[BoxProblem]:
    """
    What is wrong with the boxes, and with the segmentation and keypoints that come with them.

    Args:
        content (dict): of :func:`.file_checks.read_coco_json`.

    Returns:
        list[BoxProblem]: in the file's order; an annotation can have one of each field.
        Annotations of no image are not looked at, as in detectron2.
    """
    images = {entry["id"]: entry for entry in content["images"]}
    return [
        BoxProblem(entry["id"], image["file_name"], entry[kind.field], kind)
        for entry in content["annotations"]
        if (image := images.get(entry["image_id"])) is not None
        for kind in _kinds(entry, image)
    ]


def _kinds(annotation: Mapping[str, Any], image: Mapping[str, Any]) -> Iterator[ProblemKind]:
    for kind in (
        _problem_of_bbox(annotation["bbox"], image["width"], image["height"]),
        _problem_of_segmentation(annotation.get("segmentation")),
        _problem_of_keypoints(annotation.get("keypoints")),
    ):
        if kind is not None:
            yield kind


def _problem_of_bbox(bbox: Any, width: float, height: float) -> ProblemKind | None:
    """For an image of this size; None if the box is all right."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        return NOT_FOUR_NUMBERS
    if any(isinstance(value, int) and abs(value) >= 2**62 for value in bbox):
        return TOO_LARGE
    if not all(map(is_finite, bbox)):
        return NOT_FINITE
    x, y, w, h = bbox
    if w < 0 or h < 0:
        return NEGATIVE
    if w == 0 or h == 0:
        return NO_AREA
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return OUTSIDE
    # Rounding puts many a border a little outside.
    if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
        return REACHES_OUT
    return None


def _problem_of_segmentation(segmentation: Any) -> ProblemKind | None:
    """By what detectron2's load_coco_json does with it, which skips what is empty."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return None if _is_rle(segmentation) else NO_SEGMENTATION
    if not isinstance(segmentation, (list, str)) or not all(
        hasattr(x, "__len__") for x in segmentation
    ):
        return NO_SEGMENTATION
    if not any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation):
        return NO_POLYGON
    return None


def _is_rle(segmentation: Mapping[str, Any]) -> bool:
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(map(_is_count, size)):
        return False
    return isinstance(counts, str) or (isinstance(counts, list) and all(map(_is_count, counts)))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32


def _problem_of_keypoints(keypoints: Any) -> ProblemKind | None:
    if not keypoints or (isinstance(keypoints, list) and all(map(is_finite, keypoints))):
        return None
    return NO_KEYPOINTS


def warnings_of_problems(
    problems: Iterable[BoxProblem], json_file: str | PathLike[str]
) -> list[str]:
    """
    One warning a kind, with the number and the first.

    Raises:
        InputError: a kind that no training can work with.
    """
    first_of_kind: dict[ProblemKind, BoxProblem] = {}
    counts: Counter[ProblemKind] = Counter()
    for problem in problems:
        first_of_kind.setdefault(problem.kind, problem)
        counts[problem.kind] += 1
    texts = {
        kind: f"{json_file}: {counts[kind]} boxes {kind.text}; the first is annotation "
        f"{first.annotation_id} of {first.file_name!r}: {kind.field} = {short_repr(first.value)}. "
        f"{kind.consequence}"
        for kind, first in first_of_kind.items()
    }
    for kind, text in texts.items():
        if kind.is_fatal:
            raise InputError(text)
    return list(texts.values())


def short_repr(value: Any, length: int = 100) -> str:
    """For messages: polygons can be long."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
