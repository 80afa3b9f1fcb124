"""The weights among all else that a checkpoint may hold."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, listed

__all__ = ["SavedWeights", "find_weights"]

_AVERAGED = ("model_ema", "ema_model", "ema_state_dict", "ema_state", "ema")
_PLAIN = ("model", "state_dict", "model_state_dict", "model_state")
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
        content (dict): what :func:`.safe_reading.read_checkpoint` gives.

    Raises:
        InputError: there are none.
    """
    notes = []
    plain = next((w for key in _PLAIN if (w := _as_weights(content.get(key)))), {})
    if not plain:
        plain = _as_weights(content)
    averaged_key = next((key for key in _AVERAGED if _as_weights(content.get(key))), None)
    if averaged_key and _is_swapped(content):
        notes.append(
            f"its averaged weights (EMA) were taken: mmengine keeps the others in {averaged_key!r}"
        )
    elif averaged_key:
        averaged = _as_weights(content[averaged_key])
        notes.append(
            f"its averaged weights (EMA, {averaged_key!r}) were taken: {len(averaged)} tensors"
        )
        plain = {**plain, **averaged}
    dropped = sorted(key for key in content if key not in (*_PLAIN, "meta") and key not in plain)
    dropped = [key for key in dropped if key != averaged_key]
    if dropped and not isinstance(content[dropped[0]], (Tensor, np.ndarray)):
        notes.append(f"dropped: {listed(dropped)}")
    if not plain:
        raise InputError(f"it has no weights by name, but {listed(sorted(content)) or 'nothing'}.")
    return SavedWeights(plain, notes)


def _is_swapped(content: Mapping[str, Any]) -> bool:
    """mmengine saves averaged weights as the model's, and the others as "ema_state_dict"."""
    return "state_dict" in content and "meta" in content


def _as_weights(value: Any) -> dict[str, Tensor]:
    """The tensors of a dict, or of one dict in it, under their names without wrappers."""
    if not isinstance(value, Mapping):
        return {}
    weights = {
        name: _as_tensor(tensor)
        for name, tensor in value.items()
        if isinstance(name, str) and isinstance(tensor, (Tensor, np.ndarray))
    }
    if not any(tensor.dim() for tensor in weights.values()):
        inner = [weights for x in value.values() if (weights := _as_weights(x))]
        return inner[0] if len(inner) == 1 else {}
    # torch.optim.swa_utils.AveragedModel
    weights.pop("n_averaged", None)
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in weights):
            weights = {name.removeprefix(wrapper): x for name, x in weights.items()}
    return weights


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, np.ndarray):
        # In the byte order of the machine, which is all that PyTorch has.
        value = torch.from_numpy(value.astype(value.dtype.newbyteorder("="), copy=False))
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value
