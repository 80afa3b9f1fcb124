"""Whether a training and a test set go together, and with the number of classes."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...errors import InputError, listed, nearest
from .box_checks import is_finite, short_repr
from .registration import CheckedDataset, class_indices

__all__ = ["DatasetKeys", "check_datasets", "faults_of_field"]

logger = logging.getLogger(__name__)

# What COCO's evaluation reads of each annotation, and what it must be.
_FIELDS_OF_EVALUATION: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "id": (lambda x: isinstance(x, int) and 0 <= x < 2**63, "an integer from 1"),
    "area": (is_finite, "a finite number: width x height where there is no mask"),
    "iscrowd": (lambda x: x in (0, 1), "0 for a single object, 1 for a crowd"),
}


class DatasetKeys(NamedTuple):
    """What the config calls the arguments of ``check_datasets``."""

    num_classes: str = "MODEL.FCOS.NUM_CLASSES"
    train: str = "DATASETS.TRAIN"
    test: str = "DATASETS.TEST"


_YAML_KEYS = DatasetKeys()


def check_datasets(
    num_classes: int,
    train_names: Sequence[str],
    test_names: Sequence[str],
    own: Mapping[str, CheckedDataset],
    keys: DatasetKeys = _YAML_KEYS,
) -> None:
    """
    Check that datasets go together, and with a number of classes.

    Args:
        num_classes (int): K.
        train_names, test_names (list[str]): what is trained and evaluated on.
        own (dict): those that were registered from files, by name: only of them more than the
            metadata is known.
        keys (DatasetKeys): for the errors.

    Raises:
        InputError: names that are not registered; another number of classes; training and test
            classes that differ; a training set without boxes; a test set that cannot be evaluated.
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
        faults += _faults_of_num_classes(num_classes, name, keys.num_classes)
    for train_name, test_name in product(train_names, test_names):
        for text in _differing_classes(train_name, test_name):
            faults.append(InputError(text, key=keys.test, value=named[keys.test]))
    for key, names, look in (
        (keys.train, train_names, _lack_of_boxes),
        (keys.test, test_names, _obstacles_of_evaluation),
    ):
        for dataset in (own[name] for name in names if name in own):
            file = dataset.description.json_file
            faults += [InputError(x, key=key, value=named[key], file=file) for x in look(dataset)]
    if faults:
        raise InputError.of(faults)
    for train_name, test_name in product(train_names, test_names):
        if train_name in own and test_name in own:
            _warn_of_shared_images(own[train_name], own[test_name])


def _not_registered(key: str, name: str, names: Sequence[str]) -> InputError:
    return InputError(
        f"{key}: the dataset {name!r} is not registered. {nearest(name, DatasetCatalog.list())} "
        "A dataset of yours is registered by "
        f"--dataset {name}=ANNOTATIONS.json:IMAGES/",
        key=key,
        value=names,
    )


def _faults_of_num_classes(num_classes: int, name: str, key: str) -> Iterator[InputError]:
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is not None and len(classes) != num_classes:
        yield InputError(
            f"{key} = {num_classes}, but the dataset {name!r} has {len(classes)} classes "
            f"({listed(classes)}). Set it to that; where the config is YAML, -1 takes it from the "
            "training set.",
            key=key,
            value=num_classes,
        )


def _differing_classes(train_name: str, test_name: str) -> Iterator[str]:
    """By id and name: a detector's class i must be the evaluation's class i."""
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


def _classes_by_id(name: str) -> dict[Any, str] | None:
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is None:
        return None
    return {dataset_id: classes[index] for dataset_id, index in class_indices(name).items()}


def _lack_of_boxes(dataset: CheckedDataset) -> Iterator[str]:
    bad = {problem.annotation_id for problem in dataset.problems if problem.kind.is_left_out}
    images = {image["id"] for image in dataset.content["images"]}
    if not any(
        x["image_id"] in images and x["id"] not in bad and not x.get("iscrowd", 0)
        for x in dataset.content["annotations"]
    ):
        name, json_file = dataset.description.name, dataset.description.json_file
        yield f"The training set {name!r} ({json_file}) has no box to learn from."


def _obstacles_of_evaluation(dataset: CheckedDataset) -> Iterator[str]:
    for field, (is_right, rule) in _FIELDS_OF_EVALUATION.items():
        for fault in faults_of_field(dataset, field, is_right):
            yield f"{fault}. COCO's evaluation needs {field} as {rule}."


def _warn_of_shared_images(train: CheckedDataset, test: CheckedDataset) -> None:
    names = train.description.name, test.description.name
    train_files, test_files = _files_by_identity(train), _files_by_identity(test)
    files = [train_files[x] for x in train_files.keys() & test_files.keys()]
    if files:
        logger.warning(
            "%d images are in the training set %r and in the test set %r, the first is %s: the "
            "evaluation will look better than it is.",
            len(files),
            *names,
            min(files),
        )
    train_ids, test_ids = (
        {x["id"] for x in dataset.content["images"]} for dataset in (train, test)
    )
    if train_ids & test_ids:
        logger.warning(
            "%d image ids are in the training set %r and in the test set %r, the first is %s; that "
            "matters only if they are the same images.",
            len(train_ids & test_ids),
            *names,
            min(train_ids & test_ids, key=str),
        )


def _files_by_identity(dataset: CheckedDataset) -> dict[tuple[int, int], str]:
    """Images by device and inode, which links share; six times as fast as resolving the paths."""
    status = ((os.stat(file), file) for file in dataset.files())
    return {(x.st_dev, x.st_ino): file for x, file in status}


def faults_of_field(
    dataset: CheckedDataset, field: str, is_right: Callable[[Any], bool]
) -> Iterator[str]:
    """
    Count the annotations that lack a field, and those in which it is wrong; each with the first.

    Args:
        dataset (CheckedDataset): whose annotations are looked at.
        field (str): of an annotation.
        is_right (callable): whether a value of it is.
    """
    lacking = [x for x in dataset.content["annotations"] if field not in x]
    wrong = [x for x in dataset.content["annotations"] if field in x and not is_right(x[field])]
    for bad, kind in ((lacking, f"no {field!r}"), (wrong, f"a wrong {field!r}")):
        if bad:
            value = f" with {field} = {short_repr(bad[0][field])}" if field in bad[0] else ""
            yield (
                f"{dataset.description.json_file}: {len(bad)} annotations have {kind}, the first "
                f"is annotation {bad[0]['id']}{value}"
            )
