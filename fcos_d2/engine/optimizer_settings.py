"""
The settings of an optimizer, such as its learning rate, in a config and in a checkpoint.

PyTorch stores them in the optimizer's state, so that a resumed optimizer has those of the
checkpoint, whatever the config says.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.solver import get_default_optimizer_params
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

__all__ = [
    "Difference",
    "apply_settings",
    "find_differences",
    "keys_of_groups",
    "read_settings",
    "set_base_lrs",
]


class Difference(NamedTuple):
    """
    A setting that differs between a checkpoint and a config.

    Attributes:
        key (str): The config key of the setting; see ``keys_of_groups``.
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


def keys_of_groups(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    keys: Mapping[str, str],
    exceptions: Mapping[str, str],
    scaled: Collection[nn.Parameter] = (),
) -> list[dict[str, str]]:
    """
    Return the config key of each setting, for each parameter group of detectron2.

    Args:
        optimizer (Optimizer): The optimizer.
        model (nn.Module): Its model.
        keys (dict[str, str]): The config key of each setting of most groups.
        exceptions (dict[str, str]): The keys that the config sets for some parameters, by their
            names as arguments of ``get_default_optimizer_params``: "weight_decay_norm",
            "weight_decay_bias", "bias_lr_factor". "scaled_lr_factor" is for ``scaled``.
        scaled (Collection[Parameter]): Parameters with another factor of the learning rate.

    Returns:
        list[dict[str, str]]: The keys; "A and B" if a group has parameters of both, and "A * B" for
        a learning rate that is a product.
    """
    # detectron2 decides which parameters are norms and biases: it gets keys instead of values.
    described = get_default_optimizer_params(
        model,
        base_lr=1.0,
        weight_decay=keys.get("weight_decay", ""),
        weight_decay_norm=exceptions.get("weight_decay_norm"),
        weight_decay_bias=exceptions.get("weight_decay_bias"),
        bias_lr_factor=2.0 if "bias_lr_factor" in exceptions else 1.0,
    )
    decay_keys = {x: group["weight_decay"] for group in described for x in group["params"]}
    biases = {x for group in described if group["lr"] != 1 for x in group["params"]}
    scaled = set(scaled) if "scaled_lr_factor" in exceptions else set()
    result = []
    for group in optimizer.param_groups:
        parameters = group["params"]
        lr = [keys["lr"]]
        lr += [exceptions["bias_lr_factor"]] if biases.issuperset(parameters) else []
        lr += [exceptions["scaled_lr_factor"]] if scaled.issuperset(parameters) else []
        decays = dict.fromkeys(decay_keys[x] for x in parameters if x in decay_keys)
        decay = {"weight_decay": " and ".join(decays)} if any(decays) else {}
        result.append({**keys, "lr": " * ".join(lr), **decay})
    return result


def find_differences(
    saved: Sequence[Mapping[str, Any]],
    configured: Sequence[Mapping[str, Any]],
    keys: Sequence[Mapping[str, str]],
) -> list[Difference]:
    """
    Compare the settings of a checkpoint with those of a config.

    Args:
        saved (list[dict]): The settings of each parameter group in the checkpoint.
        configured (list[dict]): The settings of each parameter group of the config.
        keys (list[dict[str, str]]): The config key of each setting, for each parameter group.
    """
    differing: dict[str, dict[tuple[Any, Any], None]] = {}
    groups = list(zip(saved, configured, keys, strict=True))
    for name in dict.fromkeys(name for keys_of_group in keys for name in keys_of_group):
        for in_checkpoint, in_config, keys_of_group in groups:
            if name in in_checkpoint and name in in_config:
                pair = in_checkpoint[name], in_config[name]
                if pair[0] != pair[1]:
                    differing.setdefault(keys_of_group[name], {})[pair] = None
    return [
        Difference(key, *(", ".join(map(str, column)) for column in zip(*pairs, strict=True)))
        for key, pairs in differing.items()
    ]


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
