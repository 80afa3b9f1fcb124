"""Checks that training set, test set and number of classes are consistent."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...errors import InputError, listed, nearest
from .annotation_list import NO_USABLE_BOX
from .normalization import NO_ANNOTATIONS
from .registration import CheckedDataset, class_indices

__all__ = ["DatasetKeys", "check_datasets"]

logger = logging.getLogger(__name__)


class DatasetKeys(NamedTuple):
    """The config keys of the arguments of ``check_datasets``, for errors."""

    num_classes: str = "MODEL.FCOS.NUM_CLASSES"
    train: str = "DATASETS.TRAIN"
    test: str = "DATASETS.TEST"


_YAML_KEYS = DatasetKeys()


def check_datasets(
    num_classes: int,
    train_names: Sequence[str],
    test_names: Sequence[str],
    checked: Mapping[str, CheckedDataset],
    keys: DatasetKeys = _YAML_KEYS,
) -> None:
    """
    Check that datasets are consistent with each other and with the number of classes.

    Args:
        num_classes (int): The number of classes of the model, K.
        train_names (list[str]): The datasets for training.
        test_names (list[str]): The datasets for evaluation.
        checked (dict): The datasets that were registered from files, by name. Of other datasets,
            only the metadata are checked.
        keys (DatasetKeys): The config keys for errors.

    Raises:
        InputError: If a name is not registered, a dataset has another number of classes, training
            and test classes differ, a training set has no boxes, or a test set cannot be evaluated.
    """
    named = {keys.train: list(train_names), keys.test: list(test_names)}
    faults = [
        _not_registered(key, name, names)
        for key, names in named.items()
        for name in names
        if name not in DatasetCatalog
    ]
    train_names, test_names = (
        [name for name in names if name in DatasetCatalog] for names in named.values()
    )
    for name in dict.fromkeys([*train_names, *test_names]):
        faults += _find_num_classes_faults(num_classes, name, keys.num_classes)
    for train_name, test_name in product(train_names, test_names):
        for text in _differing_classes(train_name, test_name):
            faults.append(InputError(text, key=keys.test, value=named[keys.test]))
    for key, names, find in (
        (keys.train, train_names, _find_lack_of_boxes),
        (keys.test, test_names, _find_evaluation_faults),
    ):
        for dataset in (checked[name] for name in names if name in checked):
            file = dataset.description.json_file
            faults += [InputError(x, key=key, value=named[key], file=file) for x in find(dataset)]
    if faults:
        raise InputError.of(faults)
    for train_name, test_name in product(train_names, test_names):
        if train_name in checked and test_name in checked:
            _warn_of_shared_images(checked[train_name], checked[test_name])


def _not_registered(key: str, name: str, names: Sequence[str]) -> InputError:
    """Make the error for a dataset that is not registered."""
    return InputError(
        f"{key}: the dataset {name!r} is not registered. {nearest(name, DatasetCatalog.list())} "
        f"Register your own dataset by --dataset {name}=ANNOTATIONS.json:IMAGES/",
        key=key,
        value=names,
    )


def _find_num_classes_faults(num_classes: int, name: str, key: str) -> Iterator[InputError]:
    """Yield an error if a dataset has another number of classes."""
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is not None and len(classes) != num_classes:
        yield InputError(
            f"{key} = {num_classes}, but the dataset {name!r} has {len(classes)} classes "
            f"({listed(classes)}). Set the key to {len(classes)}; in a YAML config, -1 means the "
            "number of the training set.",
            key=key,
            value=num_classes,
        )


def _differing_classes(train_name: str, test_name: str) -> Iterator[str]:
    """
    Yield a message if the classes of two datasets differ by id or name.

    The detector's class i must be class i of the evaluation.
    """
    train, test = (_classes_by_id(name) for name in (train_name, test_name))
    if train is None or test is None or train == test:
        return
    differing = [
        f"id {i}: {train.get(i, 'none')!r} / {test.get(i, 'none')!r}"
        for i in sorted({*train, *test}, key=str)
        if train.get(i) != test.get(i)
    ]
    yield (
        f"The training set {train_name!r} and the test set {test_name!r} have different "
        f"categories: {'; '.join(differing[:8])}. Give both files the same list of categories."
    )


def _classes_by_id(name: str) -> dict[int | str, str] | None:
    """Return the class name of each category id; None if the metadata do not have them."""
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is None:
        return None
    return {dataset_id: classes[index] for dataset_id, index in class_indices(name).items()}


def _find_lack_of_boxes(dataset: CheckedDataset) -> Iterator[str]:
    """Yield a message if a training set has no boxes that training can use."""
    name, json_file = dataset.description.name, dataset.description.json_file
    for finding in dataset.findings:
        if finding.kind in (NO_USABLE_BOX, NO_ANNOTATIONS):
            yield (
                f"The training set {name!r} ({json_file}) has no box to learn from: {finding.text}"
            )


def _find_evaluation_faults(dataset: CheckedDataset) -> Iterator[str]:
    """Yield a message if a test set has a list of boxes, but none to evaluate on."""
    name, json_file = dataset.description.name, dataset.description.json_file
    for finding in dataset.findings:
        if finding.kind == NO_USABLE_BOX:
            yield (
                f"The test set {name!r} ({json_file}) has no box to evaluate on: {finding.text} "
                "Without the list 'annotations', the detections would be written and not evaluated."
            )


def _warn_of_shared_images(train: CheckedDataset, test: CheckedDataset) -> None:
    """Log images and image ids that are in a training set and in a test set."""
    names = train.description.name, test.description.name
    train_files, test_files = _files_by_identity(train), _files_by_identity(test)
    files = [train_files[x] for x in train_files.keys() & test_files.keys()]
    if files:
        logger.warning(
            "%d images are in the training set %r and in the test set %r, the first is %s. The "
            "results of the evaluation will be too good.",
            len(files),
            *names,
            min(files),
        )
    train_ids, test_ids = (
        {x["id"] for x in dataset.content["images"]} for dataset in (train, test)
    )
    if train_ids & test_ids:
        logger.warning(
            "%d image ids are in the training set %r and in the test set %r, the first is %s. This "
            "matters only if they are the same images.",
            len(train_ids & test_ids),
            *names,
            min(train_ids & test_ids, key=str),
        )


def _files_by_identity(dataset: CheckedDataset) -> dict[tuple[int, int], str]:
    """
    Return the images by device and inode.

    All links to an image have the same device and inode. Reading these is six times as fast as
    resolving the paths.
    """
    status = ((os.stat(file), file) for file in dataset.files())
    return {(x.st_dev, x.st_ino): file for x, file in status}
