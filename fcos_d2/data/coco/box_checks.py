"""Annotations that cannot be trained with as they are: box, segmentation and keypoints."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any, NamedTuple

from ...errors import InputError

__all__ = [
    "BoxProblem",
    "ProblemKind",
    "faults_of_problems",
    "find_box_problems",
    "is_finite",
    "short_repr",
    "warnings_of_problems",
]


class ProblemKind(NamedTuple):
    """What is wrong with some boxes, and its consequence."""

    field: str  # of the annotation
    text: str  # after "12 boxes"
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
    "have a segmentation that is not one",
    "It is a list of polygons [x1, y1, x2, y2, ...] or an RLE {'counts': ..., 'size': [height, "
    "width]}; detection needs none: fix or delete it.",
    is_fatal=True,
)
NO_POLYGON = ProblemKind(
    "segmentation",
    "have a segmentation without a polygon of at least 3 points",
    "detectron2 leaves out such annotations, with their boxes: fix or delete the segmentation.",
)
NO_KEYPOINTS = ProblemKind(
    "keypoints",
    "have keypoints that are not a list of numbers",
    "They are [x1, y1, visibility1, ...]; detection needs none: fix or delete them.",
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
    """Of a JSON file; True, which is an int to isinstance, is none."""
    return type(value) in (int, float)


def find_box_problems(content: Mapping[str, Any]) -> list[BoxProblem]:
    """
    Find what is wrong with the boxes, and with the segmentation and keypoints next to them.

    Args:
        content (dict): of ``file_checks.read_coco_json``.

    Returns:
        list[BoxProblem]: in the file's order; an annotation can have one of each field.
        Annotations of no image are not looked at, as in detectron2.
    """
    images = {entry["id"]: entry for entry in content["images"]}
    return [
        BoxProblem(entry["id"], image["file_name"], entry[kind.field], kind)
        for entry in content["annotations"]
        if (image := images.get(entry["image_id"])) is not None
        for kind in (
            _problem_of_bbox(entry["bbox"], image["width"], image["height"]),
            _problem_of_segmentation(entry.get("segmentation")),
            _problem_of_keypoints(entry.get("keypoints")),
        )
        if kind is not None
    ]


def _problem_of_bbox(bbox: Any, width: float, height: float) -> ProblemKind | None:
    """The first problem of a box in an image of this size, in pixels; None if there is none."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        return NOT_FOUR_NUMBERS
    if any(isinstance(value, int) and abs(value) >= 2**62 for value in bbox):
        return TOO_LARGE
    if not all(map(math.isfinite, bbox)):
        return NOT_FINITE
    x, y, w, h = bbox
    if w < 0 or h < 0:
        return NEGATIVE
    if w == 0 or h == 0:
        return NO_AREA
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return OUTSIDE
    # Rounding often puts a border a little outside.
    if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
        return REACHES_OUT
    return None


def _problem_of_segmentation(segmentation: Any) -> ProblemKind | None:
    """Judged by what detectron2's load_coco_json does with it, which skips what is empty."""
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


def faults_of_problems(
    problems: Iterable[BoxProblem], json_file: str | PathLike[str]
) -> list[InputError]:
    """One error for each kind of problem that no training can work with."""
    texts = _texts_of_kinds(x for x in problems if x.kind.is_fatal)
    return [InputError(f"{json_file}: {text}", file=str(json_file)) for text in texts]


def warnings_of_problems(
    problems: Iterable[BoxProblem], json_file: str | PathLike[str]
) -> list[str]:
    """One warning for each kind of problem that training can work with."""
    texts = _texts_of_kinds(x for x in problems if not x.kind.is_fatal)
    return [f"{json_file}: {text}" for text in texts]


def _texts_of_kinds(problems: Iterable[BoxProblem]) -> Iterator[str]:
    of_kind: dict[ProblemKind, list[BoxProblem]] = defaultdict(list)
    for problem in problems:
        of_kind[problem.kind].append(problem)
    for kind, those in of_kind.items():
        first = those[0]
        yield (
            f"{len(those)} boxes {kind.text}; the first is annotation {first.annotation_id} of "
            f"{first.file_name!r}: {kind.field} = {short_repr(first.value)}. {kind.consequence}"
        )


def short_repr(value: Any, length: int = 100) -> str:
    """The repr of a value, cut for messages: polygons can be long."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
