"""The datasets of a run: parsed, checked and registered before it starts."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data.coco import (
    CheckedDataset,
    ModelLimits,
    check_datasets,
    check_has_classes,
    parse_dataset,
    register_coco_dataset,
)
from ..data.function_datasets import check_function_dataset, is_function_dataset
from ..data.keypoints import num_keypoints_of
from ..errors import Collector, InputError, count_words, listed
from .preflight import RunPlan

__all__ = [
    "check_run_datasets",
    "find_unscored",
    "parse_datasets",
    "register_datasets",
]

logger = logging.getLogger(__name__)


def parse_datasets(
    configured: Sequence[str], flags: Sequence[str]
) -> dict[str, tuple[str, Path, Path]]:
    """
    Parse the descriptions of datasets.

    Args:
        configured (list[str]): Descriptions NAME=ANNOTATIONS.json:IMAGES/ in the config.
        flags (list[str]): More descriptions, from the command line. They replace those in the
            config that have the same name.

    Returns:
        dict: Descriptions by name; see ``data.coco.parse_dataset``.

    Raises:
        InputError: If a description does not have this form, or if two flags have the same name.
    """
    flags = list(dict.fromkeys(flags))
    collect = Collector()
    from_config = [collect(parse_dataset, text) for text in configured]
    from_flags = [collect(parse_dataset, text) for text in flags]
    collect.check()
    if len({parts[0] for parts in from_flags}) < len(from_flags):
        text = f"Two --dataset flags have the same name: {listed(sorted(flags))}."
        raise InputError(text, key="--dataset")
    return {parts[0]: parts for parts in (*from_config, *from_flags)}


def register_datasets(
    descriptions: Mapping[str, tuple[str, Path, Path]], plan: RunPlan
) -> dict[str, CheckedDataset]:
    """
    Check the datasets that a run uses, and register those that are described.

    Datasets of Python functions are checked too. The files of datasets that it doesn't use are not
    read and may be missing. Datasets with the same class names get the same order of classes,
    whatever their category ids are.

    Args:
        descriptions (dict): The result of ``parse_datasets``.
        plan (RunPlan): Names the datasets that the run uses.

    Returns:
        dict[str, CheckedDataset]: The checked datasets by name.

    Raises:
        InputError: If there are errors in the files. The message lists all of them.
    """
    collect = Collector()
    unused = descriptions.keys() - {*plan.train_names, *plan.test_names}
    # One without a test set is that test set, which the config leaves out on purpose.
    is_expected = len(unused) == 1 and not plan.test_names
    for name in sorted(unused):
        logger.log(
            logging.INFO if is_expected else logging.WARNING,
            "The dataset %r is not used: neither %s nor %s names it.",
            name,
            plan.keys.datasets.train,
            plan.keys.datasets.test,
        )
    skippable = set() if plan.eval_only else set(plan.train_names) - set(plan.test_names)
    skip_setting = f"{plan.keys.skip_unreadable_images}{plan.keys.equals}True"
    class_names = plan.trained_classes
    registered: dict[str, CheckedDataset] = {}
    for name in plan.used_names:
        if name in descriptions:
            registered[name] = collect(
                register_coco_dataset,
                *descriptions[name],
                is_training_set=name in plan.train_names and not plan.eval_only,
                is_test_set=name in plan.test_names,
                model_classes=class_names,
                drop_classes=plan.drop_classes,
                skip_unreadable_images=plan.skip_unreadable_images and name in skippable,
                skip_setting=skip_setting if name in skippable else "",
                keep_crowd_boxes=plan.keep_crowd_boxes,
                reported_kinds=_find_reported_kinds(descriptions, registered, name),
            )
            if registered[name] is not None:
                key = plan.keys.datasets.drop_classes
                collect(check_has_classes, registered[name], plan.drop_classes, key)
        elif is_function_dataset(name):
            registered[name] = collect(
                check_function_dataset,
                name,
                is_training=name in plan.train_names and not plan.eval_only,
                is_test=name in plan.test_names,
                skip_unreadable_images=plan.skip_unreadable_images and name in skippable,
                skip_setting=skip_setting if name in skippable else "",
                keep_crowd_boxes=plan.keep_crowd_boxes,
            )
        class_names = class_names or MetadataCatalog.get(name).get("thing_classes", ())
    collect.check()
    return registered


def _find_reported_kinds(
    descriptions: Mapping[str, tuple[str, Path, Path]],
    registered: Mapping[str, CheckedDataset],
    name: str,
) -> set[str]:
    """Return the kinds of findings in earlier datasets with the same files as this one."""
    files = [x.resolve() for x in descriptions[name][1:]]
    return {
        finding.kind
        for other, dataset in registered.items()
        if dataset is not None and other in descriptions
        if [x.resolve() for x in descriptions[other][1:]] == files
        for finding in dataset.findings
    }


def check_run_datasets(
    plan: RunPlan, num_classes: int, registered: Mapping[str, CheckedDataset]
) -> None:
    """
    Check that the datasets of a run fit together and fit the model.

    Args:
        plan (RunPlan): Names the datasets that the run uses.
        num_classes (int): K, the number of classes of the model.
        registered (dict): The result of ``register_datasets``.

    Raises:
        InputError: If there are errors in the datasets. The message lists all of them.
    """
    collect = Collector()
    model = ModelLimits(
        num_classes,
        plan.trained_classes,
        plan.drop_classes,
        plan.detections_per_image,
        plan.uses_masks,
        plan.has_mask_head,
        plan.mask_format,
        plan.uses_keypoints,
    )
    train_names = () if plan.eval_only else plan.train_names
    validates = plan.validation_loss and not plan.eval_only
    names = train_names, plan.test_names
    collect(check_datasets, model, *names, registered, plan.keys.datasets, validates=validates)
    collect(_check_sigmas, plan)
    collect.check()
    if validates:
        _check_can_compute_losses(plan, registered)
    for name in plan.used_names:
        if name not in registered:
            collect(_check_annotation_file_exists, name)
    collect.check()
    files = [name for name in plan.test_names if name in registered]
    if plan.eval_only and files and not plan.trained_classes:
        _warn_of_unknown_order(plan, files[0])


def _check_sigmas(plan: RunPlan) -> None:
    """Check that there is a sigma for each keypoint of the test sets."""
    key, count = plan.keys.datasets.kpt_oks_sigmas, len(plan.kpt_oks_sigmas)
    if not (plan.uses_keypoints and count):
        return
    numbers = {name: num_keypoints_of(name) for name in plan.test_names if name in DatasetCatalog}
    wrong = [name for name, number in numbers.items() if number not in (0, count)]
    if wrong:
        number = numbers[wrong[0]]
        raise InputError(
            f"{key} has {count_words(count, '{value|values}')}, but an object of the test set "
            f"{wrong[0]!r} has {count_words(number, '{keypoint|keypoints}')}. Set a value for each "
            "of them, or none: then 17 keypoints get COCO's values, and others equal ones.",
            key=key,
            value=list(plan.kpt_oks_sigmas),
        )


def _warn_of_unknown_order(plan: RunPlan, test_name: str) -> None:
    """Log that it is unknown which class each output of the evaluated model is."""
    classes = MetadataCatalog.get(test_name).get("thing_classes", [])
    logger.warning(
        "The order of the classes of the weights is unknown: neither the config nor a config next "
        "to the weights has %s. The results are right only if the model was trained with the "
        "classes of the test set %r in this order: %s.",
        plan.keys.datasets.class_names,
        test_name,
        listed(classes),
    )


def find_unscored(test_names: Sequence[str], registered: Mapping[str, CheckedDataset]) -> list[str]:
    """
    Return the test sets without a list of annotations, for which no scores are computed.

    Args:
        test_names (list[str]): The test sets.
        registered (dict): The result of ``register_datasets``. Other test sets are not checked.
    """
    checked = {name: registered[name] for name in test_names if name in registered}
    return [name for name, x in checked.items() if "annotations" not in x.content]


def _check_can_compute_losses(plan: RunPlan, registered: Mapping[str, CheckedDataset]) -> None:
    """Check that the test sets have annotations; else all locations would be background."""
    names = find_unscored(plan.test_names, registered)
    if names:
        key = plan.keys.validation_loss
        raise InputError(
            f"{key} = True needs annotations, but {listed(names)} in {plan.keys.datasets.test} has "
            f"none. Leave it out, or set {key} to False.",
            key=key,
            value=True,
            file=registered[names[0]].description.json_file,
        )


def _check_annotation_file_exists(name: str) -> None:
    """Check a dataset that detectron2 may have registered without looking for its files."""
    metadata = MetadataCatalog.get(name)
    file = metadata.get("json_file")
    if file and not metadata.get("made_at_first_use") and not Path(file).is_file():
        raise InputError(
            f"The annotation file {Path(file).absolute()} of the dataset {name!r} does not exist. "
            "detectron2 looks for its datasets in the folder in the environment variable "
            "DETECTRON2_DATASETS, or in ./datasets if it is not set.",
            file=file,
        )
