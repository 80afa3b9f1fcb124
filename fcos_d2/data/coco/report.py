"""A summary of a dataset in COCO's format, and checks of its images."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from ...errors import InputError
from ..images import open_image
from .box_checks import is_finite
from .registration import CheckedDataset
from .split_checks import find_field_faults

__all__ = ["describe", "find_damaged_images", "log_warnings"]

logger = logging.getLogger(__name__)

# The limits of COCO's small and medium sizes, as areas in pixels.
_SMALL, _MEDIUM = 32**2, 96**2


def describe(dataset: CheckedDataset) -> str:
    """
    Return a report with the number of images, and a table of the boxes of each class by size.

    Annotations without an image are not counted, because training leaves them out.
    """
    content = dataset.content
    image_ids = {image["id"] for image in content["images"]}
    annotations = [x for x in content["annotations"] if x["image_id"] in image_ids]
    bad = {problem.annotation_id for problem in dataset.problems}
    counts: Counter[tuple[int | str, str]] = Counter()  # by category id and size
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
    num_without_boxes = len(image_ids - {entry["image_id"] for entry in annotations})
    return (
        f"{len(content['images'])} images, {num_without_boxes} of them without boxes; "
        f"{len(annotations)} boxes (small: below 32 x 32 pixels, large: from 96 x 96)\n\n{table}\n"
    )


# Fields that COCO's evaluation uses and training does not -> a check of the value and its text.
_EVALUATION_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "area": (lambda x: is_finite(x) and x >= 0, "a number of pixels, such as width x height"),
    "iscrowd": (lambda x: x in (0, 1), "0 for a single object or 1 for a crowd"),
}


def log_warnings(dataset: CheckedDataset) -> None:
    """Log what is wrong with the fields that only an evaluation needs."""
    for field, (is_valid, rule) in _EVALUATION_FIELDS.items():
        for fault in find_field_faults(dataset, field, is_valid):
            logger.warning("%s. It must be %s. An evaluation needs it.", fault, rule)


def find_damaged_images(dataset: CheckedDataset) -> Iterator[InputError]:
    """Decode every image, and yield an error for each that cannot be used."""
    entries = dataset.content["images"]
    for file, entry in tqdm(list(zip(dataset.files(), entries, strict=True)), unit="image"):
        try:
            open_image(file, (entry["width"], entry["height"]))
        except InputError as error:
            yield error
