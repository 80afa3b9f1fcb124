"""
What can be wrong with a COCO annotation file, told before training starts.

An error is what no training can work with; a warning is what detectron2 leaves out or lives with.
Each says how many there are and names the first.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError

__all__ = ["BoxProblem", "check_annotations", "check_images", "find_box_problems", "read_coco_json"]

_LISTS = ("images", "annotations", "categories")
_FIELDS = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
# Of the fields that serve as keys.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "id": (int, str),
    "image_id": (int, str),
    "category_id": (int, str),
    "file_name": (str,),
    "name": (str,),
}
_TYPE_NAMES = {int: "integer", str: "text"}


def read_coco_json(json_file: str | os.PathLike[str]) -> dict[str, Any]:
    """
    Parse an annotation file in COCO's format for detection, and check that it is one.

    Raises:
        InputError: the file is missing, empty, not JSON, or lacks what detection needs.
    """
    path = Path(json_file)
    if not path.is_file():
        raise InputError(f"The annotation file {path} does not exist.")
    if path.stat().st_size == 0:
        raise InputError(f"The annotation file {path} is empty (0 bytes).")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"The annotation file {path} is not JSON: {error}.") from error
    if not isinstance(content, dict) or any(not isinstance(content.get(k), list) for k in _LISTS):
        raise InputError(
            f"The annotation file {path} is not in COCO's format: it must be an object with the "
            f"lists {', '.join(map(repr, _LISTS))}."
        )
    for name, fields in _FIELDS.items():
        for index, entry in enumerate(content[name]):
            lacking = [x for x in fields if not isinstance(entry, dict) or x not in entry]
            if lacking:
                raise InputError(f"{path}: {name}[{index}] has no {lacking[0]!r}.")
            for field in fields:
                if field in _TYPES and not isinstance(entry[field], _TYPES[field]):
                    raise InputError(
                        f"{path}: {name}[{index}] has {field} = {entry[field]!r}, which is no "
                        f"{' or '.join(_TYPE_NAMES[x] for x in _TYPES[field])}."
                    )
    for name in ("images", "categories"):
        if not content[name]:
            raise InputError(f"{path}: the list {name!r} is empty.")
    return content


def check_annotations(content: Mapping[str, Any], json_file: str | os.PathLike[str]) -> list[str]:
    """
    Check what the entries say of one another, and the boxes.

    Args:
        content (dict): of :func:`read_coco_json`.
        json_file (str): for the messages.

    Returns:
        list[str]: warnings.

    Raises:
        InputError: ids that are not unique, annotations of unknown categories, boxes that are not
            four numbers.
    """
    _check_ids(content, json_file)
    _check_image_sizes(content, json_file)
    _check_categories(content, json_file)
    return [*_warnings_of_ids(content, json_file), *_warnings_of_boxes(content, json_file)]


def _check_ids(content: Mapping[str, Any], json_file: str | os.PathLike[str]) -> None:
    for name, field in (
        ("images", "id"),
        ("annotations", "id"),
        ("categories", "id"),
        ("categories", "name"),
    ):
        counts = Counter(entry[field] for entry in content[name])
        for value, count in counts.most_common(1):
            if count > 1:
                raise InputError(f"{json_file}: {count} {name} have the {field} {value!r}.")


def _check_image_sizes(content: Mapping[str, Any], json_file: str | os.PathLike[str]) -> None:
    for image, side in product(content["images"], ("width", "height")):
        if not _is_real(image[side]) or image[side] <= 0:
            raise InputError(
                f"{json_file}: image {image['id']} ({image['file_name']}) has {side} = "
                f"{image[side]!r}; it must be a number of pixels."
            )


def _check_categories(content: Mapping[str, Any], json_file: str | os.PathLike[str]) -> None:
    known = {entry["id"] for entry in content["categories"]}
    unknown = [x for x in content["annotations"] if x["category_id"] not in known]
    if unknown:
        raise InputError(
            f"{json_file}: {len(unknown)} annotations are of a category that the file does not "
            f"have; the first is annotation {unknown[0]['id']} with category_id = "
            f"{unknown[0]['category_id']!r}. The file has {sorted(known, key=str)}."
        )


def _warnings_of_ids(
    content: Mapping[str, Any], json_file: str | os.PathLike[str]
) -> Iterator[str]:
    image_ids = {entry["id"] for entry in content["images"]}
    lost = [x for x in content["annotations"] if x["image_id"] not in image_ids]
    if lost:
        yield (
            f"{json_file}: {len(lost)} annotations belong to no image of the file and are left out;"
            f" the first is annotation {lost[0]['id']} with image_id = {lost[0]['image_id']!r}."
        )
    if any(x["id"] == 0 for x in content["annotations"]):
        yield (
            f"{json_file}: an annotation has the id 0. COCO's evaluation takes 0 for 'no match', "
            "so that finding this object counts for nothing. Number annotations from 1."
        )


def _warnings_of_boxes(
    content: Mapping[str, Any], json_file: str | os.PathLike[str]
) -> Iterator[str]:
    first_of_kind: dict[str, BoxProblem] = {}
    counts: Counter[str] = Counter()
    for problem in find_box_problems(content):
        first_of_kind.setdefault(problem.kind, problem)
        counts[problem.kind] += 1
    for kind, first in first_of_kind.items():
        text = (
            f"{json_file}: {counts[kind]} boxes {kind}; the first is annotation "
            f"{first.annotation_id} of {first.file_name!r}: bbox = {first.bbox}"
        )
        if first.is_fatal:
            raise InputError(f"{text}. A bbox is [x, y, width, height] in pixels.")
        yield f"{text}. {first.consequence}"


class BoxProblem(NamedTuple):
    """A box that cannot be trained with as it is."""

    annotation_id: Any
    file_name: str
    bbox: Any
    kind: str
    consequence: str
    is_fatal: bool = False


def find_box_problems(content: Mapping[str, Any]) -> Iterator[BoxProblem]:
    """The boxes of :func:`read_coco_json`'s content that are no boxes, each with what it is."""
    images = {entry["id"]: entry for entry in content["images"]}
    for entry in content["annotations"]:
        image = images.get(entry["image_id"])
        if image is None:
            continue
        problem = _box_problem(entry["bbox"], image["width"], image["height"])
        if problem:
            yield BoxProblem(entry["id"], image["file_name"], entry["bbox"], *problem)


_LEFT_OUT = "Training leaves them out."


def _box_problem(bbox: Any, width: float, height: float) -> tuple[Any, ...] | None:
    """(kind, consequence, is fatal) of a box in an image of this size, None if it is all right."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_real(x) for x in bbox):
        return "are not four numbers", "", True
    if not all(map(math.isfinite, bbox)):
        return "are not finite", _LEFT_OUT
    x, y, w, h = bbox
    if w < 0 or h < 0:
        return (
            "have a negative width or height (x1, y1, x2, y2 the wrong way round?)",
            _LEFT_OUT,
        )
    if w == 0 or h == 0:
        return "have no area", _LEFT_OUT
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return "lie outside of their image", _LEFT_OUT
    # Rounding puts many a border a little outside.
    if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
        return (
            "reach out of their image (are they [x1, y1, x2, y2] instead of [x, y, w, h]?)",
            "Training cuts them at its border.",
        )
    return None


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_images(files: Iterable[Path], json_file: str | os.PathLike[str]) -> None:
    """
    Check that image files are there and not empty, without reading them.

    Raises:
        InputError: some are not; the message has the number and the first.
    """
    missing, empty, count = [], [], 0
    for file in files:
        count += 1
        try:
            if file.stat().st_size == 0:
                empty.append(file)
        except OSError:
            missing.append(file)
    for kind, bad in (("do not exist", missing), ("are empty (0 bytes)", empty)):
        if bad:
            raise InputError(
                f"{len(bad)} of the {count} images that {json_file} lists {kind}; the first is "
                f"{bad[0]}. Is the images' folder right?"
            )
