"""Whether a training and a test set go together, and with the number of classes."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...errors import InputError, listed, nearest
from .box_checks import is_finite, short_repr
from .registration import CocoDataset, class_indices

__all__ = ["DatasetKeys", "check_datasets", "faults_of_field"]

logger = logging.getLogger(__name__)

# What COCO's evaluation reads of each annotation, and what it must be.
_FIELDS_OF_EVALUATION: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "id": (lambda x: isinstance(x, int) and 0 <= x < 2**63, "an integer from 1"),
    "area": (is_finite, "a finite number: width x height where there is no mask"),
    "iscrowd": (lambda x: x in (0, 1), "0 for a single object, 1 for a crowd"),
}


class DatasetKeys(NamedTuple):
    """What the config calls the arguments of :func:`check_datasets`."""

    num_classes: str = "MODEL.FCOS.NUM_CLASSES"
    train: str = "DATASETS.TRAIN"
    test: str = "DATASETS.TEST"


_YAML_KEYS = DatasetKeys()


def check_datasets(
    num_classes: int,
    train_names: Sequence[str],
    test_names: Sequence[str],
    own: Mapping[str, CocoDataset],
    keys: DatasetKeys = _YAML_KEYS,
) -> None:
    """
    Args:
        num_classes (int): K.
        train_names, test_names (list[str]): what is trained and evaluated on.
        own (dict): those that were registered from files, by name: only of them more than the
            metadata is known.
        keys (DatasetKeys): for the errors.

    Raises:
        InputError: a name that is not registered; another number of classes; training and test
            classes that differ; a training set without boxes; a test set that cannot be evaluated.
    """
    for key, names in ((keys.train, train_names), (keys.test, test_names)):
        for name in names:
            if name not in DatasetCatalog:
                raise InputError(
                    f"{key}: the dataset {name!r} is not registered. "
                    f"{nearest(name, DatasetCatalog.list())} A dataset of yours is registered by "
                    f"--dataset {name}=ANNOTATIONS.json:IMAGES/"
                )
            _check_num_classes(num_classes, name, keys.num_classes)
    for train_name, test_name in product(train_names, test_names):
        _check_same_classes(train_name, test_name)
        if train_name in own and test_name in own:
            _warn_of_shared_images(own[train_name], own[test_name])
    for name in train_names:
        if name in own:
            _check_has_boxes(own[name])
    for name in test_names:
        if name in own:
            _check_can_be_evaluated(own[name])


def _check_num_classes(num_classes: int, name: str, key: str) -> None:
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is not None and len(classes) != num_classes:
        raise InputError(
            f"{key} = {num_classes}, but the dataset {name!r} has {len(classes)} classes "
            f"({listed(classes)}). Set it to that; where the config is YAML, -1 takes it from the "
            "training set."
        )


def _check_same_classes(train_name: str, test_name: str) -> None:
    """By id and name: a detector's class i must be the evaluation's class i."""
    train, test = (_classes_by_id(name) for name in (train_name, test_name))
    if train is None or test is None or train == test:
        return
    differing = [
        f"id {i}: {train.get(i, 'none')!r} / {test.get(i, 'none')!r}"
        for i in sorted({*train, *test}, key=str)
        if train.get(i) != test.get(i)
    ]
    raise InputError(
        f"The training set {train_name!r} and the test set {test_name!r} have different "
        f"categories: {'; '.join(differing[:8])}. Give both files the same list of categories."
    )


def _classes_by_id(name: str) -> dict[Any, str] | None:
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is None:
        return None
    return {dataset_id: classes[index] for dataset_id, index in class_indices(name).items()}


def _warn_of_shared_images(train: CocoDataset, test: CocoDataset) -> None:
    files = {x.resolve() for x in train.files()} & {x.resolve() for x in test.files()}
    if files:
        logger.warning(
            "%d images are in the training set %r and in the test set %r, the first is %s: the "
            "evaluation will look better than it is.",
            len(files), train.name, test.name, min(files),
        )  # fmt: skip
    train_ids, test_ids = (
        {x["id"] for x in dataset.content["images"]} for dataset in (train, test)
    )
    if train_ids & test_ids:
        logger.warning(
            "%d image ids are in the training set %r and in the test set %r, the first is %s; that "
            "matters only if they are the same images.",
            len(train_ids & test_ids), train.name, test.name, min(train_ids & test_ids, key=str),
        )  # fmt: skip


def _check_has_boxes(dataset: CocoDataset) -> None:
    bad = {problem.annotation_id for problem in dataset.problems if problem.kind.is_left_out}
    images = {image["id"] for image in dataset.content["images"]}
    if not any(
        x["image_id"] in images and x["id"] not in bad and not x.get("iscrowd", 0)
        for x in dataset.content["annotations"]
    ):
        raise InputError(
            f"The training set {dataset.name!r} ({dataset.json_file}) has no box to learn from."
        )


def _check_can_be_evaluated(dataset: CocoDataset) -> None:
    for field, (is_right, rule) in _FIELDS_OF_EVALUATION.items():
        for fault in faults_of_field(dataset, field, is_right):
            raise InputError(f"{fault}. COCO's evaluation needs {field} as {rule}.")


def faults_of_field(
    dataset: CocoDataset, field: str, is_right: Callable[[Any], bool]
) -> Iterator[str]:
    """
    How many annotations lack a field, and in how many it is wrong, each with the first.

    Args:
        dataset (CocoDataset): whose annotations are looked at.
        field (str): of an annotation.
        is_right (callable): whether a value of it is.
    """
    lacking = [x for x in dataset.content["annotations"] if field not in x]
    wrong = [x for x in dataset.content["annotations"] if field in x and not is_right(x[field])]
    for bad, kind in ((lacking, f"no {field!r}"), (wrong, f"a wrong {field!r}")):
        if bad:
            value = f" with {field} = {short_repr(bad[0][field])}" if field in bad[0] else ""
            yield (
                f"{dataset.json_file}: {len(bad)} annotations have {kind}, the first is "
                f"annotation {bad[0]['id']}{value}"
            )
