"""Checks of the box, segmentation and keypoints of annotations."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any, NamedTuple

from ...errors import InputError

__all__ = [
    "BoxProblem",
    "ProblemKind",
    "box_faults",
    "box_warnings",
    "find_box_problems",
    "is_finite",
    "short_repr",
]


class ProblemKind(NamedTuple):
    """
    A kind of problem that boxes can have.

    Attributes:
        field (str): The field of the annotation.
        text (str): What is wrong, as it continues "12 boxes ...".
        consequence (str): What happens to such boxes; for fatal problems, what is expected.
        is_fatal (bool): Whether training is impossible.
        is_left_out (bool): Whether training leaves out such boxes.
    """

    field: str
    text: str
    consequence: str
    is_fatal: bool = False
    is_left_out: bool = True


class BoxProblem(NamedTuple):
    """
    A box with a problem.

    Attributes:
        annotation_id (int | str): The id of the annotation.
        file_name (str): The image, as the annotation file names it.
        value: The value of the field with the problem.
        kind (ProblemKind): What is wrong.
    """

    annotation_id: int | str
    file_name: str
    value: Any
    kind: ProblemKind


_BBOX_FORMAT = "A bbox is [x, y, width, height] in pixels."
_LEFT_OUT = "Training leaves them out."
NOT_FOUR_NUMBERS = ProblemKind("bbox", "are not four numbers", _BBOX_FORMAT, is_fatal=True)
# PyTorch cannot store such integers in a tensor.
TOO_LARGE = ProblemKind(
    "bbox", "are not finite: they have huge integers", _BBOX_FORMAT, is_fatal=True
)
NOT_FINITE = ProblemKind("bbox", "are not finite", _LEFT_OUT)
NEGATIVE = ProblemKind(
    "bbox",
    "have a negative width or height (are the corners swapped?)",
    _LEFT_OUT,
)
NO_AREA = ProblemKind("bbox", "have no area", _LEFT_OUT)
OUTSIDE = ProblemKind("bbox", "are outside of their image", _LEFT_OUT)
REACHES_OUT = ProblemKind(
    "bbox",
    "reach out of their image (are they [x1, y1, x2, y2] instead of [x, y, w, h]?)",
    "Training clips them to the image.",
    is_left_out=False,
)
NO_SEGMENTATION = ProblemKind(
    "segmentation",
    "have a segmentation that is not valid",
    "A segmentation is a list of polygons [x1, y1, x2, y2, ...] or an RLE {'counts': ..., 'size': "
    "[height, width]}. Fix or delete it; detection does not need it.",
    is_fatal=True,
)
NO_POLYGON = ProblemKind(
    "segmentation",
    "have a segmentation without a polygon of at least 3 points",
    "detectron2 leaves out such annotations and their boxes. Fix or delete the segmentation.",
)
NO_KEYPOINTS = ProblemKind(
    "keypoints",
    "have keypoints that are not a list of numbers",
    "Keypoints are [x1, y1, visibility1, ...]. Fix or delete them; detection does not need them.",
    is_fatal=True,
)


def is_finite(value: Any) -> bool:
    """Check that a value of a JSON file is a number that a float can hold."""
    if not _is_number(value):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _is_number(value: Any) -> bool:
    """Check that a value of a JSON file is a number; isinstance would accept True as an int."""
    return type(value) in (int, float)


def find_box_problems(content: Mapping[str, Any]) -> list[BoxProblem]:
    """
    Find what is wrong with the boxes, segmentations and keypoints of annotations.

    Annotations without an image are ignored, as in detectron2.

    Args:
        content (dict): The result of ``file_checks.read_coco_json``.

    Returns:
        list[BoxProblem]: The problems, at most one for each field of an annotation, in the file's
        order.
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
    """Return the first problem of a box, or None; the image has this size in pixels."""
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
    # Rounding often places a side up to one pixel outside.
    if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
        return REACHES_OUT
    return None


def _problem_of_segmentation(segmentation: Any) -> ProblemKind | None:
    """
    Return what is wrong with a segmentation; None if nothing is.

    The conditions are those of detectron2's ``load_coco_json``, which ignores empty ones.
    """
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
    """Check that a dict is a run-length encoding, compressed or not."""
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(map(_is_count, size)):
        return False
    return isinstance(counts, str) or (isinstance(counts, list) and all(map(_is_count, counts)))


def _is_count(value: Any) -> bool:
    """Check that a value is an integer that fits into 32 bits without a sign."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32


def _problem_of_keypoints(keypoints: Any) -> ProblemKind | None:
    """Return what is wrong with keypoints; None if nothing is."""
    if not keypoints or (isinstance(keypoints, list) and all(map(is_finite, keypoints))):
        return None
    return NO_KEYPOINTS


def box_faults(problems: Iterable[BoxProblem], json_file: str | PathLike[str]) -> list[InputError]:
    """Return an error for each kind of fatal problem."""
    texts = _summarize_kinds(x for x in problems if x.kind.is_fatal)
    return [InputError(f"{json_file}: {text}", file=str(json_file)) for text in texts]


def box_warnings(problems: Iterable[BoxProblem], json_file: str | PathLike[str]) -> list[str]:
    """Return a warning for each kind of problem that does not make training impossible."""
    texts = _summarize_kinds(x for x in problems if not x.kind.is_fatal)
    return [f"{json_file}: {text}" for text in texts]


def _summarize_kinds(problems: Iterable[BoxProblem]) -> Iterator[str]:
    """Yield a message for each kind of problem, with the number of boxes and the first of them."""
    problems_by_kind: dict[ProblemKind, list[BoxProblem]] = defaultdict(list)
    for problem in problems:
        problems_by_kind[problem.kind].append(problem)
    for kind, same_kind in problems_by_kind.items():
        first = same_kind[0]
        yield (
            f"{len(same_kind)} boxes {kind.text}; the first is annotation {first.annotation_id} of "
            f"{first.file_name!r}: {kind.field} = {short_repr(first.value)}. {kind.consequence}"
        )


def short_repr(value: Any, length: int = 100) -> str:
    """Return the repr of a value, truncated for messages."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
