"""Datasets in COCO's format, registered by one line of text: NAME=ANNOTATIONS.json:IMAGES/."""

import logging
import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ..errors import InputError
from .coco_checks import check_annotations, check_images, read_coco_json

__all__ = ["CocoDataset", "parse_dataset", "register_coco_dataset"]

logger = logging.getLogger(__name__)


class CocoDataset(NamedTuple):
    """A registered dataset."""

    name: str
    json_file: Path
    image_root: Path
    content: dict[str, Any]  # of the annotation file

    @property
    def text(self) -> str:
        """What registers it again, from any directory."""
        return f"{self.name}={self.json_file.absolute()}:{self.image_root.absolute()}"

    def files(self) -> list[Path]:
        return [self.image_root / image["file_name"] for image in self.content["images"]]


def parse_dataset(text: str) -> tuple[str, Path, Path]:
    """
    Take ``NAME=ANNOTATIONS.json:IMAGES/`` apart.

    Raises:
        InputError: the text is of another form.
    """
    name, _, paths = text.partition("=")
    json_file, _, image_root = paths.rpartition(":")
    if not (name and json_file and image_root):
        raise InputError(
            f"The dataset {text!r} must be given as NAME=ANNOTATIONS.json:IMAGES/, for example "
            "my_train=data/train.json:data/images/"
        )
    return name, Path(json_file).expanduser(), Path(image_root).expanduser()


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
    if not image_root.is_dir():
        raise InputError(f"The images' folder {image_root} of the dataset {name!r} does not exist.")
    content = read_coco_json(json_file)
    warnings = check_annotations(content, json_file)
    dataset = CocoDataset(name, json_file, image_root, content)
    check_images(dataset.files(), json_file)
    for warning in warnings:
        logger.warning(warning)

    categories = sorted(content["categories"], key=lambda category: category["id"])
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
