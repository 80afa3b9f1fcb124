"""The weights among all else that a checkpoint may hold."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, listed

__all__ = ["SavedWeights", "find_weights"]

_AVERAGED = ("averaged_model", "model_ema", "ema_model", "ema_state_dict", "ema_state", "ema")
_PLAIN = ("model", "state_dict", "model_state_dict", "model_state")
_ENDS_OF_WEIGHTS = (".weight", ".bias", ".running_mean", ".running_var", ".scale")
# What wrappers put before every name: DistributedDataParallel, torch.compile, Lightning.
_WRAPPERS = ("module.", "_orig_mod.", "model.")


class SavedWeights(NamedTuple):
    """
    Attributes:
        weights (dict[str, Tensor]): on the CPU; numbers with a fraction are float32.
        notes (list[str]): what was chosen and what was left behind.
    """

    weights: dict[str, Tensor]
    notes: list[str]


def find_weights(content: Mapping[str, Any]) -> SavedWeights:
    """
    The weights of a checkpoint, averaged ones (EMA) where there are some.

    Args:
        content (dict): what ``safe_reading.read_checkpoint`` gives.

    Raises:
        InputError: there are none, or some are no numbers that a model computes with.
    """
    container = next((key for key in _PLAIN if _as_weights(content.get(key))), None)
    averaged_key = next((key for key in _AVERAGED if _as_weights(content.get(key))), None)
    saved = content[container] if container else content
    weights = _as_weights(saved)
    notes = []
    # mmengine saves averaged weights as the model's, and the others in their place.
    if averaged_key and container == "state_dict" and "meta" in content:
        notes.append(
            f"averaged weights (EMA) were taken: {averaged_key!r} has the others in mmengine"
        )
    elif averaged_key:
        averaged = _as_weights(content[averaged_key])
        notes.append(f"averaged weights (EMA) were taken: {len(averaged)} of {averaged_key!r}")
        weights = {**weights, **averaged}
    if not weights:
        raise InputError(f"it has no weights by name, but {listed(sorted(content)) or 'nothing'}.")
    _raise_if_unusable(weights)
    dropped = [key for key in content if key not in (container, averaged_key, "meta")]
    dropped = [key for key in dropped if container or not _is_tensor(content[key])]
    if any(map(_is_tensor, saved.values())):
        strangers = [
            key for key, x in saved.items() if not (isinstance(key, str) and _is_tensor(x))
        ]
        _raise_if_weights(strangers)
        dropped += [f"{container}.{key}" for key in strangers if container]
    if dropped:
        notes.append(f"dropped: {listed(sorted(dropped))}")
    return SavedWeights(weights, notes)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _as_weights(value: Any, depth: int = 1) -> dict[str, Tensor]:
    """The tensors of a dict, or of one dict in it, under their names without wrappers."""
    if not isinstance(value, Mapping):
        return {}
    weights = {
        name: _as_tensor(name, tensor)
        for name, tensor in value.items()
        if isinstance(name, str) and _is_tensor(tensor)
    }
    if not any(tensor.dim() for tensor in weights.values()):
        if not depth:
            return {}
        inner = [weights for x in value.values() if (weights := _as_weights(x, depth - 1))]
        return inner[0] if len(inner) == 1 else {}
    # torch.optim.swa_utils.AveragedModel
    weights.pop("n_averaged", None)
    return _without_wrappers(weights)


def _without_wrappers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """In any order, and one in another."""
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) and name != wrapper for name in weights):
            return _without_wrappers({k.removeprefix(wrapper): x for k, x in weights.items()})
    return weights


def _as_tensor(name: str, value: Any) -> Tensor:
    """
    Raises:
        InputError: it is no plain array of numbers.
    """
    if isinstance(value, np.ndarray):
        try:
            # In the byte order of the machine, which is all that PyTorch has.
            value = torch.from_numpy(value.astype(value.dtype.newbyteorder("="), copy=False))
        except TypeError as error:
            raise InputError(f"{name} has numbers of type {value.dtype}.") from error
    strange = _strangeness(value)
    if strange:
        raise InputError(f"{name} is {strange}, not a plain array of numbers.")
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value


def _strangeness(value: Tensor) -> str:
    if value.is_sparse or value.layout != torch.strided or value.is_nested:
        return "a sparse or nested tensor"
    if value.is_meta:
        return "a tensor without numbers (meta)"
    if value.is_quantized or value.is_complex():
        return f"of type {str(value.dtype).removeprefix('torch.')}"
    if value.numel() == 0:
        return f"empty, of shape {tuple(value.shape)}"
    return ""


def _raise_if_unusable(weights: Mapping[str, Tensor]) -> None:
    """Counters of batches alone are whole numbers."""
    learnt = {k: x for k, x in weights.items() if not k.endswith("num_batches_tracked")}
    whole = [name for name, x in learnt.items() if not x.is_floating_point()]
    infinite = [name for name, x in learnt.items() if name not in whole and not _is_finite(x)]
    for names, what in ((whole, "whole numbers or bits, no weights"), (infinite, "NaN or inf")):
        if names:
            raise InputError(f"it has {what}: {listed(names)}.")


def _raise_if_weights(names: list[Any]) -> None:
    """Of what is among weights and is none: by such names there must be weights."""
    bad = [x for x in names if isinstance(x, str) and x.endswith(_ENDS_OF_WEIGHTS)]
    if bad:
        raise InputError(f"it has no tensors under the names of weights: {listed(bad)}.")


def _is_finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())
