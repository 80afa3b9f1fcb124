"""Descriptions of datasets, which users give as NAME=ANNOTATIONS.json:IMAGES/."""

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import InputError
from .findings import Finding
from .keypoint_layout import KeypointLayout

__all__ = ["CheckedDataset", "CocoDataset", "FileStamp", "dataset_text", "parse_dataset"]


class FileStamp(NamedTuple):
    """
    What changes if a file is edited.

    Attributes:
        host (str): The machine. Another one may have a copy of the file, with another time.
        size (int): The number of bytes.
        mtime_ns (int): When the file was last written.
    """

    host: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, file: str) -> "FileStamp | None":
        """Return the stamp of a file; None if the file cannot be read."""
        try:
            status = os.stat(file)
        except OSError:
            return None
        return cls(platform.node(), status.st_size, status.st_mtime_ns)

    def fits(self, other: "FileStamp") -> bool:
        """Return whether two stamps can be of the same content."""
        return self == other or (self.host != other.host and self.size == other.size)


class CocoDataset(NamedTuple):
    """
    The description of a dataset for detectron2's catalogs, which is small and can be pickled.

    Attributes:
        name (str): The name in the catalogs.
        json_file (str): The annotation file.
        image_root (str): The folder of the images.
        categories (dict[int, str]): Name by normalized category id, in the order of class indices.
            Annotations of other categories are left out.
        found_images (dict[str, str]): ``ImageLocations.found``.
        left_out (frozenset[str]): The ``file_name`` of each image that is left out.
        keypoints (KeypointLayout): The keypoints of its categories. It is empty if those of the
            file are not valid, which matters only for models with keypoints.
        stamp (FileStamp | None): The stamp of the annotation file that was checked; None if there
            is no file.
        is_test_set (bool): Whether the dataset is used again and again, in each evaluation.
    """

    name: str
    json_file: str
    image_root: str
    categories: dict[int, str]
    found_images: Mapping[str, str]
    left_out: frozenset[str]
    keypoints: KeypointLayout = KeypointLayout()
    stamp: FileStamp | None = None
    is_test_set: bool = False

    def contiguous_ids(self) -> dict[int, int]:
        """Return the class index of each category id."""
        return {category_id: index for index, category_id in enumerate(self.categories)}


class CheckedDataset(NamedTuple):
    """
    A dataset that was read and checked.

    Attributes:
        description (CocoDataset): Its description.
        content (dict): The normalized content of its annotation file.
        findings (list[Finding]): What was found in the files.
    """

    description: CocoDataset
    content: dict[str, Any]
    findings: list[Finding]

    def files(self) -> list[str]:
        """Return the paths of the images, in the file's order."""
        root = self.description.image_root
        return [os.path.join(root, image["file_name"]) for image in self.content["images"]]


def dataset_text(
    name: str, json_file: str | os.PathLike[str], image_root: str | os.PathLike[str]
) -> str:
    """Return ``NAME=ANNOTATIONS.json:IMAGES/`` with absolute paths."""
    return f"{name}={Path(json_file).absolute()}:{Path(image_root).absolute()}"


def parse_dataset(text: str) -> tuple[str, Path, Path]:
    """
    Split ``NAME=ANNOTATIONS.json:IMAGES/`` into its three parts.

    The text is split at the first ``=``, and after the first ``.json`` that is followed by a colon,
    so each part may have colons. Compressed files are split off too, for a better error later.

    Args:
        text (str): The text.

    Returns:
        tuple[str, Path, Path]: Name, annotation file and folder of the images.

    Raises:
        InputError: If the text does not have this form.
    """
    name, _, paths = text.partition("=")
    files = re.fullmatch(r"(.+?\.(?:json(?:\.\w+)?|zip)):(.+)", paths, re.DOTALL)
    if not (name and files):
        raise InputError(
            f"The dataset {text!r} must be given as NAME=ANNOTATIONS.json:IMAGES/, for example "
            "my_train=data/train.json:data/images/ (the annotation file's name must end in .json)."
        )
    json_file, image_root = files.groups()
    return name, Path(os.path.expanduser(json_file)), Path(os.path.expanduser(image_root))
