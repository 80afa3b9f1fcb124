"""Search for the weights in the content of a checkpoint."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, listed

__all__ = ["PLAIN_CONTAINERS", "SavedWeights", "find_weights", "remove_wrappers"]

_AVERAGED = ("averaged_model", "model_ema", "ema_model", "ema_state_dict", "ema_state", "ema")
# The names under which many projects save the weights without averaging.
PLAIN_CONTAINERS = ("model", "state_dict", "model_state_dict", "model_state")
_WEIGHT_SUFFIXES = (".weight", ".bias", ".running_mean", ".running_var", ".scale")
# Prefixes that wrappers add to every name: DistributedDataParallel, torch.compile, Lightning.
_WRAPPERS = ("module.", "_orig_mod.", "model.")


class SavedWeights(NamedTuple):
    """
    The weights of a checkpoint.

    Attributes:
        weights (dict[str, Tensor]): Tensors on the CPU; floating point numbers are float32.
        notes (list[str]): Lines for the user about what was selected and what was dropped.
    """

    weights: dict[str, Tensor]
    notes: list[str]


def find_weights(content: Mapping[str, Any]) -> SavedWeights:
    """
    Find the weights in a checkpoint, the averaged ones (EMA) if there are any.

    Args:
        content (dict): The result of ``safe_reading.read_checkpoint``.

    Raises:
        InputError: If there are no weights, or some weights are not numbers that a model can use.
    """
    container = next((key for key in PLAIN_CONTAINERS if _as_weights(content.get(key))), None)
    averaged_key = next((key for key in _AVERAGED if _as_weights(content.get(key))), None)
    saved = content[container] if container else content
    weights = _as_weights(saved)
    notes = []
    # mmengine swaps the two: it saves the averaged weights as those of the model.
    if averaged_key and container == "state_dict" and "meta" in content:
        notes.append(
            "averaged weights (EMA) were used: those in 'state_dict', because mmengine saves the "
            f"weights without averaging in {averaged_key!r}"
        )
    elif averaged_key:
        averaged = _as_weights(content[averaged_key])
        notes.append(f"averaged weights (EMA) were used: {len(averaged)} from {averaged_key!r}")
        weights = {**weights, **averaged}
    if not weights:
        keys = listed(sorted(content)) or "nothing"
        raise InputError(f"it has no weights by name, but {keys}.")
    _check_finite(weights)
    dropped = [key for key in content if key not in (container, averaged_key, "meta")]
    dropped = [key for key in dropped if container or not _is_tensor(content[key])]
    if any(map(_is_tensor, saved.values())):
        others = [key for key, x in saved.items() if not (isinstance(key, str) and _is_tensor(x))]
        _check_not_weights(others)
        dropped += [f"{container}.{key}" for key in others if container]
    if dropped:
        notes.append(f"dropped: {listed(sorted(dropped))}")
    return SavedWeights(weights, notes)


def _is_tensor(value: Any) -> bool:
    """Check that a value is a tensor or an array."""
    return isinstance(value, (Tensor, np.ndarray))


def _as_weights(value: Any, depth: int = 1) -> dict[str, Tensor]:
    """
    Return the tensors of a dict, or of the only dict with tensors in it.

    Their names have no prefixes of wrappers.
    """
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
    return remove_wrappers(weights)


def remove_wrappers(weights: Mapping[str, Any]) -> dict[str, Any]:
    """
    Remove the prefixes that wrappers add to the names of all weights, nested in any order.

    The counter of torch.optim.swa_utils.AveragedModel is removed too.
    """
    weights = {name: x for name, x in weights.items() if name != "n_averaged"}
    for wrapper in _WRAPPERS:
        if weights and all(name.startswith(wrapper) and name != wrapper for name in weights):
            return remove_wrappers({k.removeprefix(wrapper): x for k, x in weights.items()})
    return weights


def _as_tensor(name: str, value: Any) -> Tensor:
    """
    Convert a tensor or an array to a tensor on the CPU, in float32 if it is floating point.

    Raises:
        InputError: If the value is not a plain array of numbers.
    """
    if isinstance(value, np.ndarray):
        try:
            # PyTorch has only the byte order of the machine.
            value = torch.from_numpy(value.astype(value.dtype.newbyteorder("="), copy=False))
        except TypeError as error:
            raise InputError(f"{name} has numbers of type {value.dtype}.") from error
    kind = _unsupported_kind(value)
    if kind:
        raise InputError(f"{name} is {kind}, not a plain array of numbers.")
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value


def _unsupported_kind(value: Tensor) -> str:
    """Describe the kind of a tensor that cannot be used as a weight; "" if it can."""
    if value.is_sparse or value.layout != torch.strided or value.is_nested:
        return "a sparse or nested tensor"
    if value.is_meta:
        return "a tensor without numbers (meta)"
    if value.is_quantized or value.is_complex():
        return f"of type {str(value.dtype).removeprefix('torch.')}"
    if value.numel() == 0:
        return f"empty, of shape {tuple(value.shape)}"
    return ""


def _check_finite(weights: Mapping[str, Tensor]) -> None:
    """
    Check that all weights but the counters of batches are finite floating point numbers.

    Raises:
        InputError: If some weights are not finite. The message lists them.
    """
    learned = {k: x for k, x in weights.items() if not k.endswith("num_batches_tracked")}
    integers = [name for name, x in learned.items() if not x.is_floating_point()]
    not_finite = [
        name for name, x in learned.items() if name not in integers and not x.isfinite().all()
    ]
    if integers:
        raise InputError(f"it has integers or booleans instead of weights: {listed(integers)}.")
    if not_finite:
        raise InputError(f"it has NaN or inf: {listed(not_finite)}.")


def _check_not_weights(names: list[Any]) -> None:
    """
    Check the names of entries that are not tensors.

    Raises:
        InputError: If one of the entries has the name of a weight.
    """
    bad = [x for x in names if isinstance(x, str) and x.endswith(_WEIGHT_SUFFIXES)]
    if bad:
        raise InputError(f"it has no tensors under the names of weights: {listed(bad)}.")
