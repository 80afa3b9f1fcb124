"""Renaming of the weights of an FCOS for a model in which it is the proposal generator."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["move_head_weights"]

_PARTS = ("head.", "losses.")  # the parts of FCOS after the backbone


def move_head_weights(weights: Mapping[str, Any], heads: Sequence[str]) -> dict[str, Any]:
    """
    Rename the parts after the backbone of an FCOS to the names that they have in a model.

    Args:
        weights (dict): The weights of a file by name.
        heads (list[str]): The prefixes of the heads of the model, such as
            "proposal_generator.head.". With several heads, or if the file has weights with this
            prefix, nothing is renamed.

    Returns:
        dict: The weights, in the same order.
    """
    if len(heads) != 1 or any(name.startswith(heads[0]) for name in weights):
        return dict(weights)
    owner = heads[0].removesuffix("head.")
    return {owner + k if k.startswith(_PARTS) else k: x for k, x in weights.items()}
