"""Checks that training sets, test sets and the number of classes are consistent."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Any

from detectron2.data import DatasetCatalog

from ...errors import InputError, count_words, nearest
from .annotation_list import NO_USABLE_BOX
from .class_checks import DatasetKeys, ModelLimits, find_class_faults, find_drop_faults
from .crowds import describe_crowds
from .descriptions import CheckedDataset
from .label_checks import find_keypoint_faults, find_mask_faults
from .normalization import NO_ANNOTATIONS, file_ids

__all__ = ["check_datasets", "find_unregistered"]

logger = logging.getLogger(__name__)

_YAML_KEYS = DatasetKeys()


def check_datasets(
    model: ModelLimits,
    train_names: Sequence[str],
    test_names: Sequence[str],
    checked: Mapping[str, CheckedDataset],
    keys: DatasetKeys = _YAML_KEYS,
    *,
    validates: bool = False,
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
        validates (bool): Whether training computes the losses on the test sets too.

    Raises:
        InputError: If a name is not registered, datasets have different classes, their number is
            not that of the model, a training set has no boxes, or a test set cannot be evaluated.
    """
    named = {keys.train: list(train_names), keys.test: list(test_names)}
    faults = find_unregistered(named)
    train_names, test_names = (
        [name for name in names if name in DatasetCatalog] for names in named.values()
    )
    faults += find_class_faults(model, train_names, test_names, checked, keys)
    faults += find_drop_faults(model, train_names, test_names, checked, keys)
    for key, names, find in (
        (keys.train, train_names, partial(_find_lack_of_boxes, keys=keys)),
        (keys.test, test_names, _find_evaluation_faults),
    ):
        for dataset in (checked[name] for name in names if name in checked):
            file = dataset.description.json_file or None
            faults += [InputError(x, key=key, value=named[key], file=file) for x in find(dataset)]
    titles = {name: f"training set {name!r}" for name in train_names}
    for name in test_names:
        titles.setdefault(name, f"test set {name!r}")
    with_losses = [name for name in titles if validates or name in train_names]
    if model.uses_masks:
        for name in (x for x in with_losses if x in checked):
            faults += find_mask_faults(checked[name], titles[name], model, keys)
    if model.uses_keypoints:
        faults += find_keypoint_faults(titles, with_losses, checked, keys)
    if faults:
        raise InputError.of(faults)
    _warn_of_shared_images(
        *([checked[x] for x in names if x in checked] for names in (train_names, test_names))
    )
    for test_name in test_names:
        if test_name in checked:
            _warn_of_many_objects(checked[test_name], model.detections_per_image, keys)


def find_unregistered(
    named: Mapping[str, Sequence[str]], described: Collection[str] = ()
) -> list[InputError]:
    """
    Find datasets that are not registered.

    Args:
        named (dict): The names of datasets by the config key that has them.
        described (Collection[str]): The names of datasets that will be registered later.

    Returns:
        list[InputError]: An error for each dataset, which is not raised.
    """
    return [
        InputError(
            f"{key}: the dataset {name!r} is not registered. "
            f"{nearest(name, [*DatasetCatalog, *described])} Register your own dataset by "
            f"--dataset {name}=ANNOTATIONS.json:IMAGES/",
            key=key,
            value=list(names),
        )
        for key, names in named.items()
        for name in names
        if name not in DatasetCatalog and name not in described
    ]


def _find_lack_of_boxes(dataset: CheckedDataset, keys: DatasetKeys) -> Iterator[str]:
    """Yield a message if a training set has no boxes that training can use."""
    title = _title(dataset)
    for finding in dataset.findings:
        if finding.kind in (NO_USABLE_BOX, NO_ANNOTATIONS):
            yield f"The training set {title} has no box to learn from: {finding.text}"
            return
    categories = dataset.description.categories
    boxes = (x for x in dataset.content["annotations"] if not x["iscrowd"])
    if not any(x["category_id"] in categories for x in boxes):
        yield (
            f"The training set {title} has no box to learn from: all boxes are of classes that "
            f"{keys.drop_classes} leaves out."
        )


def _title(dataset: CheckedDataset) -> str:
    """Return the name of a dataset and its annotation file, if it has one."""
    description = dataset.description
    file = f" ({description.json_file})" if description.json_file else ""
    return f"{description.name!r}{file}"


def _find_evaluation_faults(dataset: CheckedDataset) -> Iterator[str]:
    """Yield a message if a test set has a list of boxes, but none to evaluate on."""
    title = _title(dataset)
    for finding in describe_crowds(dataset.findings, is_training_set=False):
        if finding.kind == NO_USABLE_BOX:
            yield (
                f"The test set {title} has no box to evaluate on: {finding.text} "
                "Without the list 'annotations', the detections would be written and not evaluated."
            )


def _warn_of_shared_images(
    trained: Sequence[CheckedDataset], tested: Sequence[CheckedDataset]
) -> None:
    """Log images that are in a training set and in a test set, or else common image ids."""
    if not (trained and tested):
        return
    datasets = {x.description.name: x for x in (*trained, *tested)}
    files = {name: _files_by_identity(x) for name, x in datasets.items()}
    for train, test in product(trained, tested):
        names = train.description.name, test.description.name
        _warn_of_shared_images_of(train, test, *(files[x] for x in names))


def _warn_of_shared_images_of(
    train: CheckedDataset,
    test: CheckedDataset,
    train_files: Mapping[tuple[int, int], str],
    test_files: Mapping[tuple[int, int], str],
) -> None:
    """Log images that are in both of two datasets, whose files are given by identity."""
    names = train.description.name, test.description.name
    files = [train_files[x] for x in train_files.keys() & test_files.keys()]
    if files:
        logger.warning(
            "%s in the training set %r and in the test set %r, the first is %s. The results of the "
            "evaluation will be too good.",
            count_words(len(files), "{image is|images are}"),
            *names,
            min(files),
        )
        return
    train_ids, test_ids = (
        set(file_ids(dataset.content, "images").values()) for dataset in (train, test)
    )
    shared = train_ids & test_ids
    if shared and not (_counts_up(train_ids) or _counts_up(test_ids)):
        logger.warning(
            "%s in the training set %r and in the test set %r, the first is %s. This matters only "
            "if they are the same images.",
            count_words(len(shared), "{image id is|image ids are}"),
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
        if x["category_id"] in dataset.description.categories and not x["iscrowd"]
    )
    crowded = [i for i, count in counts.items() if count > detections_per_image]
    if crowded:
        most = max(crowded, key=counts.__getitem__)
        file_names = {x["id"]: x["file_name"] for x in dataset.content["images"]}
        logger.warning(
            "%s more than %d objects in the test set %r (%r has %d), but only %s = %d detections "
            "of an image are kept. Increase it to find all objects.",
            count_words(len(crowded), "{image has|images have}"),
            detections_per_image,
            dataset.description.name,
            file_names[most],
            counts[most],
            keys.detections_per_image,
            detections_per_image,
        )


def _files_by_identity(dataset: CheckedDataset) -> dict[tuple[int, int], str]:
    """
    Return the images by device and inode.

    All links to an image have the same device and inode. Reading these is six times as fast as
    resolving the paths.
    """
    files = {}
    for file in dataset.files():
        with suppress(OSError):  # a mapper of the user may have another source of images
            status = os.stat(file)
            files[status.st_dev, status.st_ino] = file
    return files
