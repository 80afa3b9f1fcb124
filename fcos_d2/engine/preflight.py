"""
What is checked before a training or an evaluation starts, whatever kind of config describes it.

First what needs no data, all faults together; then the datasets, all faults together.
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
    """What a kind of config calls what is checked, and what stands between a key and its value."""

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
    What a config and a command line say of a run.

    Attributes:
        keys (RunKeys): for the errors.
        device, weights, output_dir (str): as configured.
        batch_size (int or None): images of all processes; None where it is not known.
        train_names, test_names (Sequence[str]): of the datasets, where they are known.
        eval_only, resume (bool): flags of the command line.
        processes (int): that share the images of a batch.
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

    @property
    def resumes(self) -> bool:
        """Whether there is a checkpoint that --resume resumes from."""
        return self.resume and (Path(self.output_dir) / "last_checkpoint").is_file()

    @property
    def relies_on_checkpoint(self) -> bool:
        """Whether a checkpoint will fill the whole model, so that no other weights are fetched."""
        return self.eval_only or self.resumes

    @property
    def used_names(self) -> list[str]:
        """The datasets that the run reads, each once."""
        return list(
            dict.fromkeys((*(() if self.eval_only else self.train_names), *self.test_names))
        )


def find_run_faults(plan: RunPlan) -> list[InputError]:
    """Find what is wrong with a run but for its values, its model and its data."""
    collect, keys = Collector(), plan.keys
    collect(check_device, plan.device, keys.device, keys.equals)
    collect(_check_can_be_written, plan.output_dir, keys.output_dir)
    return [*collect.faults, *_find_missing(plan)]


def _find_missing(plan: RunPlan) -> Iterator[InputError]:
    keys = plan.keys
    if plan.eval_only and not (plan.weights or plan.resumes):
        yield InputError(
            f"--eval-only evaluates a checkpoint, but {keys.weights} is empty. Add to the command: "
            f"{keys.weights}{keys.equals}path/to/model_final.pth (or --resume, where "
            f"{keys.output_dir} has one).",
            key=keys.weights,
        )
    # What is not a number is reported as such.
    shares = not isinstance(plan.batch_size, int) or plan.batch_size % plan.processes == 0
    if not (plan.eval_only or shares):
        yield InputError(
            f"{keys.batch_size} = {plan.batch_size} cannot be shared evenly by {plan.processes} "
            "processes.",
            key=keys.batch_size,
            value=plan.batch_size,
        )


def check_device(name: str, key: str = YAML_KEYS.device, equals: str = " ") -> None:
    """
    Check that a device is there.

    Args:
        name (str): such as "cpu" or "cuda".
        key (str): of the config, that the name comes from.
        equals (str): what stands between key and value on the command line.

    Raises:
        InputError: the name is not that of a device, or the device is not there.
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


def _check_can_be_written(folder: str, key: str) -> None:
    """Makes nothing: a run that cannot start leaves no folder."""
    path = Path(folder).absolute()
    existing = next(x for x in (path, *path.parents) if x.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        problem = "is not a folder" if not existing.is_dir() else "does not allow it"
        text = f"{key} = {folder!r} cannot be written to: {existing} {problem}."
        raise InputError(text, key=key, value=folder)


def parse_datasets(
    configured: Sequence[str], flags: Sequence[str]
) -> dict[str, tuple[str, Path, Path]]:
    """
    Parse descriptions of datasets.

    Args:
        configured (list[str]): each NAME=ANNOTATIONS.json:IMAGES/.
        flags (list[str]): more of them, of the command line; they replace those of equal names.

    Returns:
        dict: by name; see ``data.coco.parse_dataset``.

    Raises:
        InputError: descriptions of another form, or one name in two flags.
    """
    flags = list(dict.fromkeys(flags))
    collect = Collector()
    before, added = ([collect(parse_dataset, x) for x in texts] for texts in (configured, flags))
    collect.check()
    if len({parts[0] for parts in added}) < len(added):
        raise InputError(
            f"--dataset gives one name twice: {listed(sorted(flags))}.", key="--dataset"
        )
    return {parts[0]: parts for parts in (*before, *added)}


def register_datasets(
    described: Mapping[str, tuple[str, Path, Path]], plan: RunPlan
) -> dict[str, CheckedDataset]:
    """
    Check and register the described datasets that a run uses; one that it does not may be missing.

    Raises:
        InputError: all that is wrong with the files.
    """
    collect = Collector()
    for name in described.keys() - {*plan.train_names, *plan.test_names}:
        logger.warning(
            "The dataset %r is not used: %s and %s do not name it.", name, *plan.keys.datasets[1:]
        )
    own = {
        name: collect(register_coco_dataset, *described[name])
        for name in plan.used_names
        if name in described
    }
    collect.check()
    return own


def check_run_datasets(
    plan: RunPlan,
    num_classes: int,
    own: Mapping[str, CheckedDataset],
    trained_classes: Sequence[str] = (),
) -> None:
    """
    Check that the datasets of a run go together, and with the model.

    Args:
        plan (RunPlan): names the datasets.
        num_classes (int): K.
        own (dict): of ``register_datasets``.
        trained_classes (list[str]): what a checkpoint was trained for, where that is known.

    Raises:
        InputError: all that is wrong.
    """
    collect = Collector()
    train_names = () if plan.eval_only else plan.train_names
    collect(check_datasets, num_classes, train_names, plan.test_names, own, plan.keys.datasets)
    collect.check()
    for name in plan.used_names:
        if name not in own:
            collect(_check_annotations_are_there, name)
    if plan.eval_only and trained_classes:
        for name in plan.test_names:
            collect(_check_trained_classes, name, list(trained_classes))
    collect.check()


def _check_annotations_are_there(name: str) -> None:
    """Of the datasets that detectron2 registers itself, whether they are there or not."""
    metadata = MetadataCatalog.get(name)
    file = metadata.get("json_file")
    if file and not metadata.get("made_at_first_use") and not Path(file).is_file():
        raise InputError(
            f"The annotation file {Path(file).absolute()} of the dataset {name!r} does not exist. "
            "detectron2 looks for its datasets in the folder that the environment variable "
            "DETECTRON2_DATASETS names, or in ./datasets.",
            file=file,
        )


def _check_trained_classes(name: str, trained: list[str]) -> None:
    classes = MetadataCatalog.get(name).get("thing_classes")
    if classes is not None and list(classes) != trained:
        raise InputError(
            f"The detector was trained for the classes {listed(trained)} "
            f"(FCOS_TRAIN.CLASS_NAMES), but the test set {name!r} has {listed(classes)}, in this "
            "order. Evaluate on data with the same list of categories.",
            key="FCOS_TRAIN.CLASS_NAMES",
            value=trained,
        )
