"""
Datasets in COCO's format, registered by one line of text: NAME=ANNOTATIONS.json:IMAGES/.

One process checks a dataset (``register_coco_dataset``); others take its result over by
``register``, which reads no file.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...errors import InputError
from .box_checks import (
    BoxProblem,
    faults_of_problems,
    find_box_problems,
    warnings_of_problems,
)
from .file_checks import (
    faults_of_annotations,
    faults_of_images,
    read_coco_json,
    sorted_categories,
    warnings_of_annotations,
)
from .reading import make_dataset_dicts, parse_json

__all__ = [
    "CheckedDataset",
    "CocoDataset",
    "class_indices",
    "dataset_text",
    "parse_dataset",
    "register",
    "register_coco_dataset",
    "registered_datasets",
]

logger = logging.getLogger(__name__)


class CocoDataset(NamedTuple):
    """What detectron2's catalogs hold of a dataset: small, and can be pickled."""

    name: str
    json_file: str
    image_root: str
    categories: dict[Any, str]  # name by id, in the order of class indices

    def contiguous_ids(self) -> dict[Any, int]:
        """Class index by category id."""
        return {category_id: index for index, category_id in enumerate(self.categories)}


class CheckedDataset(NamedTuple):
    """A dataset, and what its checks have read and found."""

    description: CocoDataset
    content: dict[str, Any]  # of the annotation file
    problems: list[BoxProblem]  # of its boxes

    def files(self) -> list[str]:
        """The paths of the images, in the file's order."""
        root = self.description.image_root
        return [os.path.join(root, image["file_name"]) for image in self.content["images"]]


class _Loader:
    """
    Makes the dataset dicts of a dataset; what DatasetCatalog calls.

    It holds the content of the annotation file until its first call. Later calls, and that of a
    loader without content, read the file.
    """

    def __init__(self, dataset: CocoDataset, content: dict[str, Any] | None) -> None:
        self.dataset = dataset
        self.content = content

    def __call__(self) -> list[dict[str, Any]]:
        content, self.content = self.content, None
        if content is None:
            content = parse_json(self.dataset.json_file)
        ids = self.dataset.contiguous_ids()
        dicts = make_dataset_dicts(content, self.dataset.image_root, ids)
        logger.info("%d images of the dataset %r", len(dicts), self.dataset.name)
        return dicts


def registered_datasets() -> list[CocoDataset]:
    """All datasets that were registered here."""
    loaders = [DatasetCatalog[name] for name in DatasetCatalog]
    return [loader.dataset for loader in loaders if isinstance(loader, _Loader)]


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
) -> CheckedDataset:
    """
    Check a dataset in COCO's format and register it in detectron2's catalogs.

    What can be seen without opening the images is checked now: what makes training impossible is an
    error, the rest is logged. The same name may be registered again for the same files. The catalog
    keeps the content of the annotation file for its first use; see ``register``.

    Args:
        name (str): for DATASETS.TRAIN and DATASETS.TEST.
        json_file (str): annotations; boxes are [x, y, width, height] in pixels.
        image_root (str): folder that the ``file_name`` of images is relative to.

    Raises:
        InputError: a file is missing or wrong, or the name is taken.
    """
    json_file, image_root = str(Path(json_file)), str(Path(image_root))
    if not os.path.isdir(image_root):
        raise InputError(
            f"The images' folder {os.path.abspath(image_root)} of the dataset {name!r} "
            f"{'is not a folder' if os.path.exists(image_root) else 'does not exist'}.",
            file=image_root,
        )
    content = read_coco_json(json_file)
    problems = find_box_problems(content)
    categories = {category["id"]: category["name"] for category in sorted_categories(content)}
    checked = CheckedDataset(
        CocoDataset(name, json_file, image_root, categories), content, problems
    )
    faults = [
        *faults_of_annotations(content, json_file),
        *faults_of_problems(problems, json_file),
        *faults_of_images(checked.files(), json_file),
    ]
    if faults:
        raise InputError.of(faults)
    for warning in (
        *warnings_of_annotations(content, json_file),
        *warnings_of_problems(problems, json_file),
    ):
        logger.warning(warning)
    register(checked.description, content)
    return checked


def register(dataset: CocoDataset, content: dict[str, Any] | None = None) -> None:
    """
    Register a dataset that was checked, maybe by another process, in detectron2's catalogs.

    No file is read now: the dataset is loaded when the data loader asks for it. The same dataset
    may be registered again; a content that the catalog held for it is dropped.

    Args:
        dataset (CocoDataset): of ``register_coco_dataset``.
        content (dict): of the annotation file, for the first load; without it, that reads the file.

    Raises:
        InputError: the name is taken.
    """
    name = dataset.name
    metadata = {
        "json_file": dataset.json_file,
        "image_root": dataset.image_root,
        "evaluator_type": "coco",
        "thing_classes": list(dataset.categories.values()),
        "thing_dataset_id_to_contiguous_id": dataset.contiguous_ids(),
    }
    if name in DatasetCatalog:
        known = MetadataCatalog.get(name)
        if any(known.get(key) != value for key, value in metadata.items()):
            raise InputError(
                f"The dataset name {name!r} is taken, for other files. Choose another one.",
                key="name",
                value=name,
            )
        DatasetCatalog.remove(name)
    DatasetCatalog.register(name, _Loader(dataset, content))
    MetadataCatalog.get(name).set(**metadata)
