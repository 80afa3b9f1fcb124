"""Datasets in COCO's format, registered by one line of text: NAME=ANNOTATIONS.json:IMAGES/."""

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ...errors import InputError
from .box_checks import BoxProblem, find_box_problems
from .file_checks import check_annotations, check_images, read_coco_json, sorted_categories

__all__ = [
    "CocoDataset",
    "class_indices",
    "dataset_text",
    "parse_dataset",
    "register_coco_dataset",
]

logger = logging.getLogger(__name__)


class CocoDataset(NamedTuple):
    """A registered dataset."""

    name: str
    json_file: Path
    image_root: Path
    content: dict[str, Any]  # of the annotation file
    problems: list[BoxProblem]  # of its boxes

    def files(self) -> list[Path]:
        return [self.image_root / image["file_name"] for image in self.content["images"]]


def class_indices(dataset_name: str) -> Mapping[Any, int]:
    """Class index by category id; a dataset without ids of its own has the indices as ids."""
    metadata = MetadataCatalog.get(dataset_name)
    indices = {i: i for i in range(len(metadata.thing_classes))}
    return metadata.get("thing_dataset_id_to_contiguous_id") or indices


def dataset_text(
    name: str, json_file: str | os.PathLike[str], image_root: str | os.PathLike[str]
) -> str:
    """``NAME=ANNOTATIONS.json:IMAGES/`` with absolute paths, for any directory."""
    return f"{name}={Path(json_file).absolute()}:{Path(image_root).absolute()}"


def parse_dataset(text: str) -> tuple[str, Path, Path]:
    """
    Take ``NAME=ANNOTATIONS.json:IMAGES/`` apart: at the first ``=``, and behind the first
    ``.json:`` after it, so that all three may have colons.

    Raises:
        InputError: the text is of another form.
    """
    name, _, paths = text.partition("=")
    stem, separator, image_root = paths.partition(".json:")
    if not (name and stem and separator and image_root):
        raise InputError(
            f"The dataset {text!r} must be given as NAME=ANNOTATIONS.json:IMAGES/, for example "
            "my_train=data/train.json:data/images/ (the annotation file's name must end in .json)."
        )
    json_file = f"{stem}.json"
    return name, Path(os.path.expanduser(json_file)), Path(os.path.expanduser(image_root))


def register_coco_dataset(
    name: str, json_file: str | os.PathLike[str], image_root: str | os.PathLike[str]
) -> CocoDataset:
    """
    Check a dataset in COCO's format and register it in detectron2's catalogs.

    What can be seen without opening the images is checked now: what makes training impossible is an
    error, the rest is logged. The same name may be registered again for the same files.

    Args:
        name (str): for DATASETS.TRAIN and DATASETS.TEST.
        json_file (str): annotations; boxes are [x, y, width, height] in pixels.
        image_root (str): folder that the ``file_name`` of images is relative to.

    Raises:
        InputError: a file is missing or wrong, or the name is taken.
    """
    json_file, image_root = Path(json_file), Path(image_root)
    if not os.path.isdir(image_root):
        raise InputError(
            f"The images' folder {image_root.absolute()} of the dataset {name!r} "
            f"{'is no folder' if os.path.exists(image_root) else 'does not exist'}."
        )
    content = read_coco_json(json_file)
    problems = find_box_problems(content)
    warnings = check_annotations(content, json_file, problems)
    dataset = CocoDataset(name, json_file, image_root, content, problems)
    check_images(dataset.files(), json_file)
    for warning in warnings:
        logger.warning(warning)

    categories = sorted_categories(content)
    metadata = {
        "json_file": str(json_file),
        "image_root": str(image_root),
        "evaluator_type": "coco",
        "thing_classes": [category["name"] for category in categories],
        "thing_dataset_id_to_contiguous_id": {x["id"]: i for i, x in enumerate(categories)},
    }
    if name in DatasetCatalog:
        known = MetadataCatalog.get(name)
        if any(known.get(key) != value for key, value in metadata.items()):
            raise InputError(
                f"The dataset name {name!r} is taken, for other files. Choose another one."
            )
        return dataset
    DatasetCatalog.register(name, partial(load_coco_json, str(json_file), str(image_root), name))
    MetadataCatalog.get(name).set(**metadata)
    return dataset
