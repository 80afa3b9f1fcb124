"""
The datasets ``shapes_train`` and ``shapes_val``: scenes of ``scene.py`` as PNG files and COCO JSON.

``register_shapes`` registers both in ``$DETECTRON2_DATASETS/shapes``, or ``datasets/shapes`` if the
variable is not set, where detectron2 expects its own datasets. A dataset is drawn when it is first
loaded:

    shapes/train/annotations.json
    shapes/train/images/000000.png ...
    shapes/val/...
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from iopath.common.file_io import file_lock

from ...errors import InputError
from ..keypoints import keypoint_metadata
from .spec import (
    ANNOTATION_VERSION,
    KEYPOINT_CONNECTIONS,
    KEYPOINT_NAMES,
    RECIPE_VERSION,
    SHAPE_CLASSES,
)

__all__ = ["NUM_SHAPES_IMAGES", "load_shapes", "make_shapes", "register_shapes"]

logger = logging.getLogger(__name__)

NUM_SHAPES_IMAGES: Mapping[str, int] = {"train": 1500, "val": 300}


def register_shapes(
    root: str | os.PathLike[str] | None = None, num_images: Mapping[str, int] | None = None
) -> None:
    """
    Register ``shapes_train`` and ``shapes_val`` in detectron2's catalogs, without drawing them.

    A second call replaces the registrations and the metadata of the first.

    Args:
        root (str): The directory that has, or will have, the folder ``shapes``. By default, the
            current value of the environment variable DETECTRON2_DATASETS, or "datasets".
        num_images (dict): The number of images of each split to register. By default,
            NUM_SHAPES_IMAGES.

    Raises:
        InputError: If another dataset is registered under one of these names.
    """
    if root is None:
        root = os.getenv("DETECTRON2_DATASETS", "datasets")
    shapes_folder = Path(root).expanduser() / "shapes"
    for split, count in (num_images or NUM_SHAPES_IMAGES).items():
        name = f"shapes_{split}"
        if name in DatasetCatalog:
            # Compare modules: after importlib.reload, load_shapes is another object.
            loader = getattr(DatasetCatalog[name], "func", DatasetCatalog[name])
            owner = getattr(loader, "__module__", None)
            if owner != __name__:
                raise InputError(
                    f"A dataset {name!r} is registered already, by {owner}. Choose "
                    "another name for it.",
                    key="name",
                    value=name,
                )
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        folder = shapes_folder / split
        DatasetCatalog.register(name, partial(load_shapes, root, split, count))
        MetadataCatalog.get(name).set(
            json_file=str(folder / "annotations.json"),
            image_root=str(folder / "images"),
            evaluator_type="coco",
            made_at_first_use=True,
            thing_classes=list(SHAPE_CLASSES),
            thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(SHAPE_CLASSES))},
            **keypoint_metadata(KEYPOINT_NAMES, KEYPOINT_CONNECTIONS),
        )


def load_shapes(
    root: str | os.PathLike[str], split: str, num_images: int | None = None
) -> list[dict[str, Any]]:
    """
    Load a split as detectron2's dataset dicts, after drawing it if it does not exist.

    Args:
        root (str): See ``make_shapes``.
        split (str): See ``make_shapes``.
        num_images (int): See ``make_shapes``.

    Raises:
        InputError: See ``make_shapes``.
    """
    folder = make_shapes(root, split, num_images)
    json_file, image_root = str(folder / "annotations.json"), str(folder / "images")
    return load_coco_json(json_file, image_root, f"shapes_{split}")


def make_shapes(root: str | os.PathLike[str], split: str, num_images: int | None = None) -> Path:
    """
    Draw a split in ``root/shapes`` if it does not exist.

    If it has annotations of an earlier version of fcos_d2, only these are written again. The folder
    is renamed to its final name when all files are written, so an existing folder is complete. If
    several processes call this, one draws and the others wait for its result. Partial folders of
    killed processes are removed.

    Args:
        root (str): The directory that has, or will have, the folder ``shapes``.
        split (str): "train" or "val".
        num_images (int): The number of images; by default, NUM_SHAPES_IMAGES[split]. A smaller
            dataset has the first images of a larger one.

    Returns:
        Path: The folder of the split, with ``annotations.json`` and ``images``.

    Raises:
        InputError: If the split or the number is wrong, or if the folder cannot be written or has
            other content, such as images of an older recipe. Other content is not deleted.
    """
    if split not in NUM_SHAPES_IMAGES:
        raise InputError(
            f"split = {split!r} must be one of {list(NUM_SHAPES_IMAGES)}.", key="split", value=split
        )
    count = NUM_SHAPES_IMAGES[split] if num_images is None else num_images
    if count < 1:
        raise InputError(
            f"num_images = {count} must be at least 1.", key="num_images", value=num_images
        )
    folder = Path(root).expanduser() / "shapes" / split
    try:
        if not _is_drawn(folder, split, count):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(str(folder)):
                if not _is_drawn(folder, split, count):  # another process may have drawn it
                    _draw_folder(folder, split, count)
    except OSError as error:
        raise InputError(
            f"The dataset shapes_{split} cannot be drawn in {folder.parent.absolute()}: {error}. "
            "Free space on the disk and allow writing, or set the environment variable "
            "DETECTRON2_DATASETS to another directory.",
            file=str(folder),
        ) from error
    return folder


def _is_drawn(folder: Path, split: str, count: int) -> bool:
    """
    Check whether the folder of a split exists with the current annotations.

    Raises:
        InputError: If the folder exists with other content.
    """
    if not folder.exists():
        return False
    try:
        info = json.loads((folder / "annotations.json").read_text())["info"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        info = None
    expected = _build_info(split, count)
    if info != expected and info != _without_annotation_version(expected):
        raise InputError(
            f"{folder.absolute()} does not hold the {count} images of shapes_{split} that this "
            f"version of fcos_d2 draws (recipe {RECIPE_VERSION}). The info in its annotations.json "
            f"is: {info}. Move or delete the folder so that it is drawn again, or set the "
            "environment variable DETECTRON2_DATASETS to another directory.",
            file=str(folder),
        )
    return bool(info == expected)


def _build_info(split: str, count: int) -> dict[str, Any]:
    """Build the ``info`` that identifies a split in its annotation file."""
    return {
        "description": f"fcos_d2 drawn shapes, {split}",
        "version": RECIPE_VERSION,
        "annotation_version": ANNOTATION_VERSION,
        "num_images": count,
    }


def _without_annotation_version(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``info`` of the first annotation version, which does not name it."""
    return {key: value for key, value in info.items() if key != "annotation_version"}


def _draw_folder(folder: Path, split: str, count: int) -> None:
    """
    Draw a split into a temporary folder and rename it, or only update the annotations.

    Only the process that holds the lock may call this.
    """
    # Imported only here, because it needs OpenCV and no other part of this package does.
    from .annotation import write_split

    if folder.exists():
        logger.info(
            "Updating the annotations in %s: keypoints are added, images don't change",
            folder.absolute(),
        )
        write_split(folder, split, count, _build_info(split, count), with_images=False)
        return
    prefix, suffix = f".{split}-", ".partial"
    for stale in folder.parent.glob(f"{prefix}*{suffix}"):
        logger.info("Removing %s of an interrupted process", stale)
        shutil.rmtree(stale, ignore_errors=True)
    logger.info("Drawing the dataset shapes_%s into %s", split, folder.absolute())
    with tempfile.TemporaryDirectory(suffix, prefix, folder.parent) as temporary:
        # One level below, because other users cannot read the temporary directory itself.
        drawn = Path(temporary) / split
        write_split(drawn, split, count, _build_info(split, count))
        os.rename(drawn, folder)
