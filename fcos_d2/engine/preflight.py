"""
Checks before training or an evaluation starts, for YAML configs and LazyConfigs.

First, all errors that can be found without data are reported together. If there are none, the
datasets are checked, and all errors in the datasets are reported together (see ``run_datasets``).
"""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..arguments import NAME, list_of
from ..data.coco import find_unregistered
from ..errors import Collector, InputError
from .checkpoints import check_can_resume, has_last_checkpoint
from .run_keys import YAML_KEYS, RunKeys

__all__ = ["RunPlan", "check_device", "find_run_faults"]


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
        keep_crowd_boxes (bool | None): Whether training keeps the boxes of crowds; None if the
            model cannot keep them.
        uses_masks (bool): Whether the model is trained with masks.
        has_mask_head (bool): Whether the model predicts masks.
        mask_format (str): See ``ModelLimits``.
        uses_keypoints (bool): Whether the model is trained with keypoints and predicts them.
        kpt_oks_sigmas (Sequence[float]): See ``NormalizedCOCOEvaluator``.
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
    keep_crowd_boxes: bool | None = False
    uses_masks: bool = False
    has_mask_head: bool = False
    mask_format: str = "bitmask"
    uses_keypoints: bool = False
    kpt_oks_sigmas: Sequence[float] = ()
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
