"""Checks that training sets, test sets and the number of classes are consistent."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from detectron2.data import DatasetCatalog

from ...errors import InputError, nearest
from .box_checks import is_finite, short_repr
from .class_checks import DatasetKeys, ModelLimits, find_class_faults, find_drop_faults
from .normalization import file_ids
from .registration import CheckedDataset

__all__ = ["check_datasets", "find_field_faults"]

logger = logging.getLogger(__name__)

# Fields that COCO's evaluation needs -> a check of the value and its text.
_EVALUATION_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "id": (lambda x: isinstance(x, int) and 0 <= x < 2**63, "an integer from 1"),
    "area": (is_finite, "a finite number: width x height where there is no mask"),
    "iscrowd": (lambda x: x in (0, 1), "0 for a single object, 1 for a crowd"),
}


_YAML_KEYS = DatasetKeys()


def check_datasets(
    model: ModelLimits,
    train_names: Sequence[str],
    test_names: Sequence[str],
    checked: Mapping[str, CheckedDataset],
    keys: DatasetKeys = _YAML_KEYS,
) -> None:
    """
    Check that datasets are consistent with each other and with a model.

    Args:
        model (ModelLimits): What the model can detect.
        train_names (list[str]): The datasets for training.
        test_names (list[str]): The datasets for evaluation.
        checked (dict): The datasets that were registered from files, by name. Of other datasets,
            only the metadata are checked.
        keys (DatasetKeys): The config keys for errors.

    Raises:
        InputError: If a name is not registered, datasets have different classes, their number is
            not that of the model, a training set has no boxes, or a test set cannot be evaluated.
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
    faults += find_class_faults(model, train_names, test_names, checked, keys)
    faults += find_drop_faults(model, train_names, test_names, checked, keys)
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
    for test_name in test_names:
        if test_name in checked:
            _warn_of_many_objects(checked[test_name], model.detections_per_image, keys)


def _not_registered(key: str, name: str, names: Sequence[str]) -> InputError:
    """Make the error for a dataset that is not registered."""
    return InputError(
        f"{key}: the dataset {name!r} is not registered. {nearest(name, DatasetCatalog.list())} "
        f"Register your own dataset by --dataset {name}=ANNOTATIONS.json:IMAGES/",
        key=key,
        value=names,
    )


def _find_lack_of_boxes(dataset: CheckedDataset) -> Iterator[str]:
    """Yield a message if a training set has no boxes that training can use."""
    bad = {problem.annotation_id for problem in dataset.problems if problem.kind.is_left_out}
    images = {image["id"] for image in dataset.content["images"]}
    if not any(
        x["image_id"] in images
        and x["id"] not in bad
        and x["category_id"] in dataset.description.categories
        and not x.get("iscrowd", 0)
        for x in dataset.content["annotations"]
    ):
        name, json_file = dataset.description.name, dataset.description.json_file
        yield f"The training set {name!r} ({json_file}) has no box to learn from."


def _find_evaluation_faults(dataset: CheckedDataset) -> Iterator[str]:
    """Yield texts about fields that make an evaluation impossible."""
    for field, (is_valid, rule) in _EVALUATION_FIELDS.items():
        for fault in find_field_faults(dataset, field, is_valid):
            yield f"{fault}. For COCO's evaluation, {field} must be {rule}."


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
        set(file_ids(dataset.content, "images").values()) for dataset in (train, test)
    )
    shared = train_ids & test_ids
    if shared and not (_counts_up(train_ids) or _counts_up(test_ids)):
        logger.warning(
            "%d image ids are in the training set %r and in the test set %r, the first is %s. This "
            "matters only if they are the same images.",
            len(shared),
            *names,
            min(shared, key=str),
        )


def _counts_up(ids: Collection[Any]) -> bool:
    """Return whether ids are only the numbers of the images, counted from 0 or 1."""
    numbers = [x for x in ids if isinstance(x, int)]
    return len(numbers) == len(ids) and min(ids) in (0, 1) and max(ids) - min(ids) < len(ids)


def _warn_of_many_objects(
    dataset: CheckedDataset, detections_per_image: int, keys: DatasetKeys
) -> None:
    """Log that there are images with more objects than the model returns detections."""
    counts = Counter(
        x["image_id"]
        for x in dataset.content.get("annotations", [])
        if x["category_id"] in dataset.description.categories and not x.get("iscrowd", 0)
    )
    crowded = [i for i, count in counts.items() if count > detections_per_image]
    if crowded:
        most = max(crowded, key=counts.__getitem__)
        file_names = {x["id"]: x["file_name"] for x in dataset.content["images"]}
        logger.warning(
            "%d images of the test set %r have more than %d objects, up to %d (%r), but at most "
            "%s = %d detections of an image are kept, so some objects cannot be found. Increase "
            "the value.",
            len(crowded),
            dataset.description.name,
            detections_per_image,
            counts[most],
            file_names.get(most),
            keys.detections_per_image,
            detections_per_image,
        )


def _files_by_identity(dataset: CheckedDataset) -> dict[tuple[int, int], str]:
    """
    Return the images by device and inode.

    All links to an image have the same device and inode. Reading these is six times as fast as
    resolving the paths.
    """
    status = ((os.stat(file), file) for file in dataset.files())
    return {(x.st_dev, x.st_ino): file for x, file in status}


def find_field_faults(
    dataset: CheckedDataset, field: str, is_valid: Callable[[Any], bool]
) -> Iterator[str]:
    """
    Yield texts about annotations without a field, and about annotations with a wrong value in it.

    Args:
        dataset (CheckedDataset): The dataset.
        field (str): The name of the field.
        is_valid (Callable): Whether a value of the field is valid.
    """
    lacking = [x for x in dataset.content["annotations"] if field not in x]
    wrong = [x for x in dataset.content["annotations"] if field in x and not is_valid(x[field])]
    for bad, kind in ((lacking, f"no {field!r}"), (wrong, f"a wrong {field!r}")):
        if bad:
            value = f" with {field} = {short_repr(bad[0][field])}" if field in bad[0] else ""
            yield (
                f"{dataset.description.json_file}: {len(bad)} annotations have {kind}, the first "
                f"is annotation {bad[0]['id']}{value}"
            )
