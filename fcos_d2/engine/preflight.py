"""
Checks before training or an evaluation starts, for YAML configs and LazyConfigs.

First, all errors that can be found without data are reported together. If there are none, the
datasets are checked, and all errors in the datasets are reported together.
"""

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.data import MetadataCatalog

from ..arguments import NAME, list_of
from ..data.coco import (
    CheckedDataset,
    ModelLimits,
    check_datasets,
    check_has_classes,
    find_unregistered,
    parse_dataset,
    register_coco_dataset,
)
from ..data.function_datasets import check_function_dataset, is_function_dataset
from ..errors import Collector, InputError, listed
from .checkpoints import check_can_resume, has_last_checkpoint
from .run_keys import YAML_KEYS, RunKeys

__all__ = [
    "RunPlan",
    "check_device",
    "check_run_datasets",
    "find_run_faults",
    "find_unscored",
    "parse_datasets",
    "register_datasets",
]

logger = logging.getLogger(__name__)


class RunPlan(NamedTuple):
    """
    The values in a config and on the command line that describe a run.

    Attributes:
        keys (RunKeys): The config keys of the values, for error messages.
        device (str): The device in the config.
        weights (str): The weights in the config.
        output_dir (str): The output folder in the config.
        batch_size (int): Number of images of all processes, or None if it is unknown.
        train_names (Sequence[str]): Names of the training sets, as far as they are known.
        test_names (Sequence[str]): Names of the test sets, as far as they are known.
        eval_only (bool): Whether the command line has --eval-only.
        resume (bool): Whether the command line has --resume.
        processes (int): Number of processes that share the images of a batch.
        trained_classes (Sequence[str]): The class names of a detector that is only evaluated; empty
            if they are unknown.
        drop_classes (Sequence[str]): Names of classes that are left out of the datasets.
        detections_per_image (int): The number of detections that the model returns for an image.
        skip_unreadable_images (bool): Whether training leaves out images that cannot be read.
        uses_masks (bool): Whether the model is trained with masks.
        validation_loss (bool): Whether training computes the losses on the test data.
    """

    keys: RunKeys
    device: str
    weights: str
    output_dir: str
    batch_size: int | None
    train_names: Sequence[str]
    test_names: Sequence[str]
    eval_only: bool = False
    resume: bool = False
    processes: int = 1
    trained_classes: Sequence[str] = ()
    drop_classes: Sequence[str] = ()
    detections_per_image: int = 100
    skip_unreadable_images: bool = False
    uses_masks: bool = False
    validation_loss: bool = False

    @property
    def resumes(self) -> bool:
        """Whether --resume is set and there is a checkpoint to resume from."""
        return self.resume and has_last_checkpoint(self.output_dir)

    @property
    def relies_on_checkpoint(self) -> bool:
        """Whether a checkpoint will fill the whole model, so that it needs no other weights."""
        return self.eval_only or self.resumes

    @property
    def used_names(self) -> list[str]:
        """The names of the datasets that the run reads, without duplicates."""
        train_names = () if self.eval_only else self.train_names
        return list(dict.fromkeys((*train_names, *self.test_names)))


def find_run_faults(plan: RunPlan, described: Collection[str] | None) -> list[InputError]:
    """
    Find errors in a run: its device, output folder, checkpoint, batch size and names of datasets.

    Args:
        plan (RunPlan): The run.
        described (Collection[str] | None): The names of the datasets that ``register_datasets``
            will register; None if they are unknown because a description has an error.
    """
    collect, keys = Collector(), plan.keys
    collect(check_device, plan.device, keys.device, keys.equals)
    collect(_check_is_writable, plan.output_dir, keys.output_dir)
    if plan.resume:
        collect(check_can_resume, plan.output_dir, keys.output_dir)
    faults = [*collect.faults, *_find_plan_faults(plan)]
    if described is None:
        return faults
    train_names = () if plan.eval_only else plan.train_names
    named = {keys.datasets.train: train_names, keys.datasets.test: plan.test_names}
    # Values that are not lists of names have a separate error.
    named = {key: names for key, names in named.items() if list_of(NAME).holds(names)}
    return [*faults, *find_unregistered(named, described)]


def _find_plan_faults(plan: RunPlan) -> Iterator[InputError]:
    """Yield an error for a missing checkpoint and for a batch that cannot be shared."""
    keys = plan.keys
    if plan.eval_only and not (plan.weights or plan.resumes):
        yield InputError(
            f"--eval-only evaluates a checkpoint, but {keys.weights} is empty. Add "
            f"{keys.weights}{keys.equals}path/to/model_final.pth to the command, or --resume if "
            f"{keys.output_dir} has a checkpoint.",
            key=keys.weights,
        )
    # A batch size that is not an integer has a separate error.
    is_divisible = not isinstance(plan.batch_size, int) or plan.batch_size % plan.processes == 0
    if not (plan.eval_only or is_divisible):
        yield InputError(
            f"{keys.batch_size} = {plan.batch_size} cannot be shared evenly by {plan.processes} "
            "processes.",
            key=keys.batch_size,
            value=plan.batch_size,
        )


def check_device(name: str, key: str = YAML_KEYS.device, equals: str = " ") -> None:
    """
    Check that a device is available.

    Args:
        name (str): Name of the device, such as "cpu" or "cuda".
        key (str): Config key of the device.
        equals (str): Separator between key and value on the command line.

    Raises:
        InputError: If there is no such device, or PyTorch cannot use it.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        text = f"{key} = {name!r}: {error}".splitlines()[0]
        raise InputError(text, key=key, value=name) from error
    problem = None
    if device.type not in ("cpu", "cuda", "mps"):
        problem = " must be cpu, cuda or mps."
    elif device.type == "mps" and not torch.backends.mps.is_available():
        problem = ", but PyTorch finds no such device here."
    elif device.type == "cuda" and not torch.cuda.is_available():
        problem = (
            ", but PyTorch finds no usable CUDA device here. To use the CPU, add to the command: "
            f"{key}{equals}cpu"
        )
    if problem:
        raise InputError(f"{key} = {name!r}{problem}", key=key, value=name)


def _check_is_writable(folder: str, key: str) -> None:
    """Check that a folder can be written to, without creating it."""
    path = Path(folder).absolute()
    existing = next(x for x in (path, *path.parents) if x.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        problem = "is not a folder" if not existing.is_dir() else "is not writable"
        text = f"{key} = {folder!r} cannot be written to: {existing} {problem}."
        raise InputError(text, key=key, value=folder)


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
    skipping = set(plan.train_names) - set(plan.test_names) if plan.skip_unreadable_images else ()
    class_names = plan.trained_classes
    registered = {}
    for name in plan.used_names:
        if name in descriptions:
            registered[name] = collect(
                register_coco_dataset,
                *descriptions[name],
                is_training_set=name in plan.train_names and not plan.eval_only,
                model_classes=class_names,
                drop_classes=plan.drop_classes,
                skip_unreadable_images=name in skipping,
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
                skip_unreadable_images=name in skipping,
            )
        class_names = class_names or MetadataCatalog.get(name).get("thing_classes", ())
    collect.check()
    return registered


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
    )
    train_names = () if plan.eval_only else plan.train_names
    collect(check_datasets, model, train_names, plan.test_names, registered, plan.keys.datasets)
    collect.check()
    if plan.validation_loss and not plan.eval_only:
        _check_can_compute_losses(plan, registered)
    for name in plan.used_names:
        if name not in registered:
            collect(_check_annotation_file_exists, name)
    collect.check()
    files = [name for name in plan.test_names if name in registered]
    if plan.eval_only and files and not plan.trained_classes:
        _warn_of_unknown_order(plan, files[0])


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
