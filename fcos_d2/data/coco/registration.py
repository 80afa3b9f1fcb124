"""
Registration of datasets in COCO's format in detectron2's catalogs.

One process checks a dataset (``register_coco_dataset``). Other processes register its result by
``register``, which does not read files.
"""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ...errors import InputError, count_words
from ..keypoints import keypoint_metadata
from .annotation_list import NO_USABLE_BOX, UNUSED_CLASSES
from .classes import select_categories
from .crowds import describe_crowds
from .dataset_checks import check_coco_dataset
from .dataset_dicts import convert_dataset_dicts
from .descriptions import CheckedDataset, CocoDataset, FileStamp
from .findings import check_findings, report
from .keypoint_layout import read_layout
from .loading import load_content
from .location_findings import SKIP_SETTING
from .normalization import NO_ANNOTATIONS, normalize
from .reading import make_dataset_dicts

__all__ = [
    "class_indices",
    "normalized_content",
    "register",
    "register_coco_dataset",
    "registered_datasets",
]

logger = logging.getLogger(__name__)


class _Loader:
    """
    The function in DatasetCatalog that makes the dataset dicts of a dataset.

    It keeps the content of the annotation file for the first use, and that of a test set for all
    uses. Later uses, and those of a loader without content, read the file.
    The number of images is logged once.
    """

    def __init__(self, dataset: CocoDataset, content: dict[str, Any] | None) -> None:
        self.dataset = dataset
        self.content = content
        self._is_logged = False

    def __call__(self) -> list[dict[str, Any]]:
        content = self.load_content()
        if not self.dataset.is_test_set:
            self.content = None
        ids = self.dataset.contiguous_ids()
        dicts = make_dataset_dicts(content, self.dataset.image_root, ids)
        if not self._is_logged:
            number = count_words(len(dicts), "{image|images}")
            logger.info("%s of the dataset %r", number, self.dataset.name)
            self._is_logged = True
        return dicts

    def load_content(self) -> dict[str, Any]:
        """
        Return the content that is kept, or read and normalize the annotation file.

        Raises:
            InputError: If the file was changed after it was checked, or cannot be read.
        """
        if self.content is not None:
            return self.content
        checked, file = self.dataset, self.dataset.json_file
        stamp = FileStamp.of(file)
        if checked.stamp and stamp and not checked.stamp.fits(stamp):
            raise InputError(
                f"The annotation file {os.path.abspath(file)} of the dataset {checked.name!r} was "
                "changed after it was checked. Start the run again.",
                file=file,
            )
        content = load_content(file, checked.image_root, checked.found_images, checked.left_out)
        if checked.is_test_set:
            self.content = content
        return content


def register_coco_dataset(
    name: str,
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    is_training_set: bool = True,
    is_test_set: bool = False,
    keep_crowd_boxes: bool | None = False,
    model_classes: Sequence[str] = (),
    drop_classes: Sequence[str] = (),
    skip_unreadable_images: bool = False,
    skip_setting: str = SKIP_SETTING,
    reported_kinds: Collection[str] = (),
) -> CheckedDataset:
    """
    Check a dataset in COCO's format and register it in detectron2's catalogs.

    All checks are made that do not need to decode the images. What makes training impossible is an
    error; other findings are logged. The same name may be registered again for the same files,
    which are then read again. The catalog keeps the content of the annotation file for its first
    use (see ``register``), and that of a test set for all uses.

    Args:
        name (str): The name for DATASETS.TRAIN and DATASETS.TEST.
        json_file (str): The annotations. Boxes are [x, y, width, height] in pixels.
        image_root (str): The folder that the ``file_name`` of images is relative to.
        is_training_set (bool): Whether findings are logged that matter only for training.
        is_test_set (bool): Whether evaluations use the dataset, each of which needs the content.
        keep_crowd_boxes (bool | None): See ``crowds.describe_crowds``.
        model_classes (Sequence[str]): See ``classes.select_categories``.
        drop_classes (Sequence[str]): See ``classes.select_categories``.
        skip_unreadable_images (bool): Leave out images that are missing or cannot be read.
        skip_setting (str): What would leave them out, for errors; "" if nothing would.
        reported_kinds (Collection[str]): The kinds of findings that were logged for the same files,
            and are not logged again.

    Raises:
        InputError: If a file is missing or has errors, or if the name is already used for other
            files.
    """
    checked = check_coco_dataset(
        name,
        json_file,
        image_root,
        skip_unreadable_images=skip_unreadable_images,
        skip_setting=skip_setting,
    )
    described = describe_crowds(
        checked.findings, is_training_set=is_training_set, keep_crowd_boxes=keep_crowd_boxes
    )
    checked = checked._replace(findings=described)
    # ``check_datasets`` refuses sets without boxes.
    others = {NO_USABLE_BOX, NO_ANNOTATIONS if is_training_set else UNUSED_CLASSES}
    findings = [
        x
        for x in checked.findings
        if x.kind not in others
        and (x.is_fatal or x.kind not in reported_kinds)
        and not (x.kind == UNUSED_CLASSES and set(x.entries) <= set(drop_classes))
    ]
    description = checked.description
    report(findings, description.json_file, logger)
    categories = select_categories(description.categories, model_classes, drop_classes)
    description = description._replace(categories=categories, is_test_set=is_test_set)
    with suppress(InputError):  # which ``check_datasets`` raises if the model uses keypoints
        used = [x for x in checked.content["categories"] if x["id"] in categories]
        description = description._replace(keypoints=read_layout(used))
    checked = checked._replace(description=description)
    register(checked.description, checked.content)
    return checked


def register(dataset: CocoDataset, content: dict[str, Any] | None = None) -> None:
    """
    Register a checked dataset in detectron2's catalogs.

    The check may have been made by another process. No file is read: the dataset is loaded when it
    is first used. If the same dataset is registered again, the content that the catalog keeps for
    it is replaced, and its classes may be others.

    Args:
        dataset (CocoDataset): The description from ``register_coco_dataset``.
        content (dict): The normalized content of the annotation file. Without it, the first load
            reads the file.

    Raises:
        InputError: If the name is already used for other files.
    """
    name = dataset.name
    metadata = {
        "json_file": dataset.json_file,
        "image_root": dataset.image_root,
        "evaluator_type": "coco",
        "thing_classes": list(dataset.categories.values()),
        "thing_dataset_id_to_contiguous_id": dataset.contiguous_ids(),
        **keypoint_metadata(*dataset.keypoints),
    }
    if name in DatasetCatalog:
        known = MetadataCatalog.get(name)
        if any(known.get(key) != metadata[key] for key in ("json_file", "image_root")):
            raise InputError(
                f"The dataset name {name!r} is taken: it is registered for other files. Choose "
                "another one.",
                key="name",
                value=name,
            )
        DatasetCatalog.remove(name)
        if any(known.get(key) != value for key, value in metadata.items()):
            MetadataCatalog.remove(name)  # the file was edited; values cannot be replaced
    DatasetCatalog.register(name, _Loader(dataset, content))
    MetadataCatalog.get(name).set(**metadata)


def registered_datasets() -> list[CocoDataset]:
    """Return all datasets that were registered by ``register``."""
    loaders = [DatasetCatalog[name] for name in DatasetCatalog]
    return [loader.dataset for loader in loaders if isinstance(loader, _Loader)]


def class_indices(dataset_name: str) -> Mapping[int | str, int]:
    """
    Return the class index of each category id of a dataset.

    For a dataset without category ids, this maps each class index to itself.
    """
    metadata = MetadataCatalog.get(dataset_name)
    indices: dict[int | str, int] = {i: i for i in range(len(metadata.thing_classes))}
    return metadata.get("thing_dataset_id_to_contiguous_id") or indices


def normalized_content(dataset_name: str) -> dict[str, Any]:
    """
    Return a registered dataset as valid COCO content; see ``normalize``.

    The dataset may be registered by this package, by detectron2 with a ``json_file``, or as a
    function. If this package's loader keeps the content, it is returned.

    Args:
        dataset_name (str): A name in DatasetCatalog.

    Raises:
        InputError: If the annotation file cannot be read or has errors.
    """
    loader = DatasetCatalog[dataset_name]
    if isinstance(loader, _Loader):
        return loader.load_content()
    metadata = MetadataCatalog.get(dataset_name)
    json_file = metadata.get("json_file")
    if json_file is None:
        content, findings = normalize(convert_dataset_dicts(dataset_name, loader()))
        check_findings(findings, f"The dataset {dataset_name!r}")
        return content
    if metadata.get("made_at_first_use"):
        DatasetCatalog.get(dataset_name)
    return load_content(PathManager.get_local_path(json_file), metadata.get("image_root", ""))
