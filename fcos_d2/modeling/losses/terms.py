"""
Loss terms: losses as sums over a batch, with the totals that they are divided by.

Sums and totals can be added over several batches or processes before they are divided.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..assignment import LocationTargets
from ..predictions import DensePredictions

__all__ = ["ExtraTerms", "LossTerm", "LossTerms", "merge_terms"]


class LossTerm(NamedTuple):
    """
    One loss, summed over the batch of this process.

    Attributes:
        sum (Tensor): () float32 with gradient.
        normalizer (str): Name of the total that the sum is divided by.
    """

    sum: Tensor
    normalizer: str


class LossTerms(NamedTuple):
    """
    The losses of a batch as sums, and the totals that normalize them.

    The terms of several batches can be added.

    Attributes:
        losses (dict[str, LossTerm]): Loss terms by the name of the loss.
        totals (dict[str, Tensor]): () float32 without gradient, by name: "positives" (their
            number), "box_weights" (sum of the weights of the box loss), "locations" (their number),
            and the totals of extra terms.
    """

    losses: dict[str, LossTerm]
    totals: dict[str, Tensor]

    def detached(self) -> "LossTerms":
        """Copy the values to the CPU, as float64 for exact large sums, without gradients."""

        def convert(x: Tensor) -> Tensor:
            """Copy one value."""
            return x.detach().to("cpu", torch.float64)

        return LossTerms(
            {name: LossTerm(convert(x.sum), x.normalizer) for name, x in self.losses.items()},
            {name: convert(x) for name, x in self.totals.items()},
        )

    def plus(self, other: "LossTerms") -> "LossTerms":
        """Add the terms of another batch, which must have the same names."""
        return LossTerms(
            {
                name: LossTerm(x.sum + other.losses[name].sum, x.normalizer)
                for name, x in self.losses.items()
            },
            {name: x + other.totals[name] for name, x in self.totals.items()},
        )


# A user-defined loss: it computes its terms from predictions and targets. The terms may be divided
# by their own totals or by those of FCOS. All processes and batches must have the same names.
ExtraTerms = Callable[[DensePredictions, LocationTargets], LossTerms]


def merge_terms(parts: list[LossTerms]) -> LossTerms:
    """
    Merge terms with different names into one object.

    Args:
        parts (list[LossTerms]): Terms of the same batch.

    Raises:
        ValueError: If two parts have a loss or a total of the same name, or if a loss refers to a
            total that no part has.
    """
    losses: dict[str, LossTerm] = {}
    totals: dict[str, Tensor] = {}
    for part in parts:
        duplicates = (losses.keys() & part.losses.keys()) | (totals.keys() & part.totals.keys())
        if duplicates:
            raise ValueError(
                f"Several loss terms are named {sorted(duplicates)}. Give each its own name."
            )
        losses.update(part.losses)
        totals.update(part.totals)
    for name, term in losses.items():
        if term.normalizer not in totals:
            raise ValueError(
                f"The loss term {name!r} is to be divided by {term.normalizer!r}, but the totals "
                f"are {list(totals)}. Use one of them, or add the total to the term."
            )
    return LossTerms(losses, totals)
