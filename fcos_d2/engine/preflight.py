"""
Checks before training or an evaluation starts, for YAML configs and LazyConfigs.

First, all errors that can be found without data are reported together. If there are none, the
datasets are checked, and all errors in the datasets are reported together.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.data import MetadataCatalog

from ..data.coco import (
    CheckedDataset,
    DatasetKeys,
    check_datasets,
    parse_dataset,
    register_coco_dataset,
)
from ..errors import Collector, InputError, listed

__all__ = [
    "LAZY_KEYS",
    "YAML_KEYS",
    "RunKeys",
    "RunPlan",
    "check_device",
    "check_run_datasets",
    "find_run_faults",
    "parse_datasets",
    "register_datasets",
]

logger = logging.getLogger(__name__)


class RunKeys(NamedTuple):
    """
    The keys of the checked values in one kind of config.

    Attributes:
        device (str): Key of the device.
        weights (str): Key of the weights to start from or to evaluate.
        output_dir (str): Key of the output folder.
        batch_size (str): Key of the number of images in a batch.
        datasets (DatasetKeys): Keys of the number of classes and the dataset names.
        equals (str): Separator between a key and its value on the command line.
    """

    device: str
    weights: str
    output_dir: str
    batch_size: str
    datasets: DatasetKeys
    equals: str


YAML_KEYS = RunKeys(
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "OUTPUT_DIR",
    "SOLVER.IMS_PER_BATCH",
    DatasetKeys("MODEL.FCOS.NUM_CLASSES", "DATASETS.TRAIN", "DATASETS.TEST"),
    " ",
)
LAZY_KEYS = RunKeys(
    "train.device",
    "train.init_checkpoint",
    "train.output_dir",
    "dataloader.train.total_batch_size",
    DatasetKeys(
        "model.num_classes", "dataloader.train.dataset.names", "dataloader.test.dataset.names"
    ),
    "=",
)


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
        skip_unreadable_images (bool): Whether training leaves out images that cannot be read.
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
    skip_unreadable_images: bool = False

    @property
    def resumes(self) -> bool:
        """Whether --resume is set and there is a checkpoint to resume from."""
        return self.resume and (Path(self.output_dir) / "last_checkpoint").is_file()

    @property
    def relies_on_checkpoint(self) -> bool:
        """Whether a checkpoint will fill the whole model, so that it needs no other weights."""
        return self.eval_only or self.resumes

    @property
    def used_names(self) -> list[str]:
        """The names of the datasets that the run reads, without duplicates."""
        train_names = () if self.eval_only else self.train_names
        return list(dict.fromkeys((*train_names, *self.test_names)))


def find_run_faults(plan: RunPlan) -> list[InputError]:
    """Find errors in a run: its device, output folder, checkpoint and batch size."""
    collect, keys = Collector(), plan.keys
    collect(check_device, plan.device, keys.device, keys.equals)
    collect(_check_is_writable, plan.output_dir, keys.output_dir)
    return [*collect.faults, *_find_plan_faults(plan)]


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
    Check and register the described datasets that a run uses.

    The files of datasets that it doesn't use are not read and may be missing.

    Args:
        descriptions (dict): The result of ``parse_datasets``.
        plan (RunPlan): Names the datasets that the run uses.

    Returns:
        dict[str, CheckedDataset]: The registered datasets by name.

    Raises:
        InputError: If there are errors in the files. The message lists all of them.
    """
    collect = Collector()
    for name in descriptions.keys() - {*plan.train_names, *plan.test_names}:
        logger.warning(
            "The dataset %r is not used: neither %s nor %s names it.", name, *plan.keys.datasets[1:]
        )
    skipping = set(plan.train_names) - set(plan.test_names) if plan.skip_unreadable_images else ()
    registered = {
        name: collect(
            register_coco_dataset,
            *descriptions[name],
            is_training_set=name in plan.train_names and not plan.eval_only,
            skip_unreadable_images=name in skipping,
        )
        for name in plan.used_names
        if name in descriptions
    }
    collect.check()
    return registered


def check_run_datasets(
    plan: RunPlan,
    num_classes: int,
    registered: Mapping[str, CheckedDataset],
    trained_classes: Sequence[str] = (),
) -> None:
    """
    Check that the datasets of a run fit together and fit the model.

    Args:
        plan (RunPlan): Names the datasets that the run uses.
        num_classes (int): K, the number of classes of the model.
        registered (dict): The result of ``register_datasets``.
        trained_classes (Sequence[str]): Class names that the checkpoint was trained for, or empty
            if they are unknown.

    Raises:
        InputError: If there are errors in the datasets. The message lists all of them.
    """
    collect = Collector()
    train_names = () if plan.eval_only else plan.train_names
    names = (train_names, plan.test_names)
    collect(check_datasets, num_classes, *names, registered, plan.keys.datasets)
    collect.check()
    for name in plan.used_names:
        if name not in registered:
            collect(_check_annotation_file_exists, name)
    if plan.eval_only and trained_classes:
        for name in plan.test_names:
            collect(_check_trained_classes, name, list(trained_classes))
    collect.check()


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


def _check_trained_classes(name: str, trained: list[str]) -> None:
    """Check that a test set has the classes that the checkpoint was trained for."""
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is not None and list(classes) != trained:
        raise InputError(
            f"The detector was trained for the classes {listed(trained)} "
            f"(FCOS_TRAIN.CLASS_NAMES), but the test set {name!r} has {listed(classes)}, in this "
            "order. Evaluate on data with the same list of categories in the same order.",
            key="FCOS_TRAIN.CLASS_NAMES",
            value=trained,
        )
