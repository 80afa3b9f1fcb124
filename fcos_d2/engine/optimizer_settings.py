"""
The settings of an optimizer, such as its learning rate, in a config and in a checkpoint.

PyTorch stores them in the optimizer's state, so that a resumed optimizer has those of the
checkpoint, whatever the config says.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.optim.lr_scheduler import LRScheduler

__all__ = [
    "Difference",
    "apply_settings",
    "find_differences",
    "read_settings",
    "set_base_lrs",
]


class Difference(NamedTuple):
    """
    A setting that differs between a checkpoint and a config.

    Attributes:
        key (str): The config key of the setting.
        saved (str): The value in the checkpoint; several values if parameter groups differ.
        configured (str): The value in the config, likewise.
    """

    key: str
    saved: str
    configured: str


def read_settings(optimizer: torch.optim.Optimizer, names: Iterable[str]) -> list[dict[str, Any]]:
    """
    Read the settings of each parameter group, as far as the optimizer has them.

    Args:
        optimizer (Optimizer): The optimizer.
        names (Iterable[str]): Names of the settings. "lr" is the learning rate before a scheduler
            has changed it.
    """
    selected = set(names)
    return [
        {name: x for name, x in {**group, "lr": _base_lr(group)}.items() if name in selected}
        for group in optimizer.param_groups
    ]


def _base_lr(group: Mapping[str, Any]) -> float:
    """Return the learning rate of a group before a scheduler has changed it."""
    return group.get("initial_lr", group["lr"])


def find_differences(
    saved: Sequence[Mapping[str, Any]],
    configured: Sequence[Mapping[str, Any]],
    keys: Mapping[str, str],
) -> list[Difference]:
    """
    Compare the settings of a checkpoint with those of a config.

    Args:
        saved (list[dict]): The settings of each parameter group in the checkpoint.
        configured (list[dict]): The settings of each parameter group of the config.
        keys (dict[str, str]): The config key of each setting.
    """
    differences = []
    for name, key in keys.items():
        pairs = [
            (in_checkpoint[name], in_config[name])
            for in_checkpoint, in_config in zip(saved, configured, strict=True)
            if name in in_checkpoint and name in in_config
        ]
        differing = dict.fromkeys(pair for pair in pairs if pair[0] != pair[1])
        if differing:
            values = (", ".join(str(x) for x in column) for column in zip(*differing, strict=True))
            differences.append(Difference(key, *values))
    return differences


def apply_settings(
    optimizer: torch.optim.Optimizer, configured: Sequence[Mapping[str, Any]]
) -> None:
    """
    Replace the settings of a resumed optimizer.

    The current learning rate stays the same multiple of the base learning rate, as the schedule
    has it at this iteration.

    Args:
        optimizer (Optimizer): The optimizer, which is changed in place.
        configured (list[dict]): The new settings of each parameter group.
    """
    for group, settings in zip(optimizer.param_groups, configured, strict=True):
        before = _base_lr(group)
        multiple = group["lr"] / before if before else 1.0
        lr = settings["lr"]
        group.update(settings, initial_lr=lr, lr=lr * multiple)


def set_base_lrs(scheduler: LRScheduler, optimizer: torch.optim.Optimizer) -> None:
    """
    Set the base learning rates of a resumed scheduler to those of its optimizer.

    Args:
        scheduler (LRScheduler): The scheduler. Those without base learning rates are not changed.
        optimizer (Optimizer): The optimizer of the scheduler.
    """
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [_base_lr(group) for group in optimizer.param_groups]
