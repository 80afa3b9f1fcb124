"""What a dataset in COCO's format holds, in a few lines, and what is wrong with its images."""

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data.detection_utils import check_image_size, read_image
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from .coco_checks import find_box_problems
from .coco_datasets import CocoDataset

__all__ = ["ImageProblem", "describe", "find_image_problems", "log_warnings"]

logger = logging.getLogger(__name__)

# COCO's classes of size, by area in pixels.
_SMALL, _MEDIUM = 32**2, 96**2


def describe(content: Mapping[str, Any]) -> str:
    """
    Args:
        content (dict): of :func:`.coco_checks.read_coco_json`.

    Returns:
        str: a table of the boxes of each class by size, and what there is of images. Annotations
        of no image are not counted: training leaves them out.
    """
    image_ids = {image["id"] for image in content["images"]}
    annotations = [x for x in content["annotations"] if x["image_id"] in image_ids]
    bad = {problem.annotation_id for problem in find_box_problems(content)}
    counts: Counter[tuple[Any, str]] = Counter()
    for entry in annotations:
        if entry["id"] in bad:
            size = "with a problem"
        elif entry.get("iscrowd", 0):
            size = "crowd"
        else:
            area = entry["bbox"][2] * entry["bbox"][3]
            size = "small" if area < _SMALL else "medium" if area < _MEDIUM else "large"
        counts[entry["category_id"], size] += 1
    sizes = ["small", "medium", "large", "crowd", "with a problem"]
    rows = [
        [category["name"], *(counts[category["id"], size] for size in sizes)]
        for category in content["categories"]
    ]
    table = tabulate(rows, headers=["class", *sizes], tablefmt="pipe")
    without = len(image_ids - {entry["image_id"] for entry in annotations})
    return (
        f"{len(content['images'])} images, {without} of them without boxes; {len(annotations)} "
        f"boxes (small: below 32 x 32 pixels, large: from 96 x 96)\n\n{table}\n"
    )


def log_warnings(dataset: CocoDataset) -> None:
    """Log what training does not look at: fields that an evaluation needs, files named twice."""
    for warning in (*_warnings_of_fields(dataset), *_warnings_of_files(dataset)):
        logger.warning(warning)


def _is_area(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0


# What COCO's evaluation computes with: what it must be, and how to see that.
_FIELDS_OF_EVALUATION: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "area": ("a number of pixels, such as width x height", _is_area),
    "iscrowd": ("0 for a single object or 1 for a crowd", lambda value: value in (0, 1)),
}


def _warnings_of_fields(dataset: CocoDataset) -> Iterator[str]:
    annotations = dataset.content["annotations"]
    for field, (text, holds) in _FIELDS_OF_EVALUATION.items():
        lacking = [x["id"] for x in annotations if field not in x]
        if lacking:
            yield (
                f"{dataset.json_file}: {len(lacking)} annotations have no {field!r}, the first is "
                f"annotation {lacking[0]}. An evaluation needs it: it must be {text}."
            )
        wrong = [x for x in annotations if field in x and not holds(x[field])]
        if wrong:
            yield (
                f"{dataset.json_file}: {len(wrong)} annotations have a wrong {field!r}, the first "
                f"is annotation {wrong[0]['id']} with {field} = {wrong[0][field]!r}. It must be "
                f"{text}; an evaluation needs it."
            )


def _warnings_of_files(dataset: CocoDataset) -> Iterator[str]:
    counts = Counter(os.path.normpath(file) for file in dataset.files())
    twice = [(file, count) for file, count in counts.items() if count > 1]
    if twice:
        file, count = twice[0]
        yield (
            f"{dataset.json_file}: {len(twice)} files are listed more than once; the first is "
            f"{file}, {count} times. Boxes that one entry lacks are background there."
        )


class ImageProblem(NamedTuple):
    """An image that stops training (``is_fatal``), or that it reads otherwise than was meant."""

    text: str
    is_fatal: bool


def find_image_problems(dataset: CocoDataset) -> Iterator[ImageProblem]:
    """
    Open every image: those that cannot be read or are of another size than the annotations say, and
    those whose pixels have more than 8 bits.
    """
    entries = dataset.content["images"]
    for file, entry in tqdm(list(zip(dataset.files(), entries, strict=True)), unit="image"):
        try:
            mode = _pil_mode(file)
            image = read_image(str(file), format="BGR")
            check_image_size(
                {"file_name": str(file), "width": entry["width"], "height": entry["height"]}, image
            )
        # A damaged file can make the readers raise anything.
        except Exception as error:
            yield ImageProblem(f"{file}: {type(error).__name__}: {error}", is_fatal=True)
            continue
        if mode == "F" or mode.startswith("I"):
            yield ImageProblem(
                f"{file}: its pixels have more than 8 bits (PIL's mode {mode}), and training would "
                "clip them at 255. Convert it to 8 bits.",
                is_fatal=False,
            )


def _pil_mode(file: Path) -> str:
    with Image.open(file) as image:
        return image.mode
