"""What a dataset in COCO's format holds, in a few lines, and which of its images are damaged."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.data.detection_utils import check_image_size, read_image
from tabulate import tabulate
from tqdm import tqdm

from .coco_checks import find_box_problems
from .coco_datasets import CocoDataset

__all__ = ["describe", "find_damaged_images"]

# COCO's classes of size, by area in pixels.
_SMALL, _MEDIUM = 32**2, 96**2


def describe(content: Mapping[str, Any]) -> str:
    """
    Args:
        content (dict): of :func:`.coco_checks.read_coco_json`.

    Returns:
        str: a table of the boxes of each class by size, and what there is of images.
    """
    bad = {problem.annotation_id for problem in find_box_problems(content)}
    counts: Counter[tuple[Any, str]] = Counter()
    for entry in content["annotations"]:
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
    with_boxes = {entry["image_id"] for entry in content["annotations"]}
    without = sum(image["id"] not in with_boxes for image in content["images"])
    total = len(content["annotations"])
    return (
        f"{len(content['images'])} images, {without} of them without boxes; {total} boxes "
        f"(small: below 32 x 32 pixels, large: from 96 x 96)\n\n{table}\n"
    )


def find_damaged_images(dataset: CocoDataset) -> Iterator[str]:
    """Open every image; a line for each that cannot be read or is of another size than said."""
    entries = dataset.content["images"]
    for file, entry in tqdm(list(zip(dataset.files(), entries, strict=True)), unit="image"):
        try:
            image = read_image(str(file), format="BGR")
            check_image_size(
                {"file_name": str(file), "width": entry["width"], "height": entry["height"]}, image
            )
        # A damaged file can make the readers raise anything.
        except Exception as error:
            yield f"{file}: {type(error).__name__}: {error}"
