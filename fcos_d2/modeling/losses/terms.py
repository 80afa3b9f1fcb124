"""Losses before they are divided: sums, the totals that divide them, and who is divided by what."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..assignment import LocationTargets
from ..predictions import DensePredictions

__all__ = ["ExtraTerms", "LossTerm", "LossTerms", "merge_terms"]


class LossTerm(NamedTuple):
    """
    One loss, summed over what this process sees.

    Attributes:
        sum (Tensor): float32 scalar, with its gradient.
        normalizer (str): name of the total that it is divided by.
    """

    sum: Tensor
    normalizer: str


class LossTerms(NamedTuple):
    """
    What images add to the losses; the terms of several batches add up to those of all.

    Attributes:
        losses (dict[str, LossTerm]): by the name that is logged.
        totals (dict[str, Tensor]): float32 scalars without gradient, by name: "positives",
            "box_weights" (weights of the box loss), "locations", and those of extra terms.
    """

    losses: dict[str, LossTerm]
    totals: dict[str, Tensor]

    def detached(self) -> "LossTerms":
        """Copy the numbers, without gradients, to float64 on the CPU: large sums lose no digits."""

        def convert(x: Tensor) -> Tensor:
            return x.detach().to("cpu", torch.float64)

        return LossTerms(
            {name: LossTerm(convert(x.sum), x.normalizer) for name, x in self.losses.items()},
            {name: convert(x) for name, x in self.totals.items()},
        )

    def plus(self, other: "LossTerms") -> "LossTerms":
        """Add the terms of another batch, which has the same names."""
        return LossTerms(
            {
                name: LossTerm(x.sum + other.losses[name].sum, x.normalizer)
                for name, x in self.losses.items()
            },
            {name: x + other.totals[name] for name, x in self.totals.items()},
        )


# A loss of another project: from predictions and targets to its terms. They may be divided by their
# own totals or by those of FCOS, and have the same names in every process and for every batch.
ExtraTerms = Callable[[DensePredictions, LocationTargets], LossTerms]


def merge_terms(parts: list[LossTerms]) -> LossTerms:
    """
    Put terms of different names together.

    Raises:
        ValueError: two parts have a loss or a total of the same name, or a loss is to be divided by
            a total that no part has.
    """
    losses: dict[str, LossTerm] = {}
    totals: dict[str, Tensor] = {}
    for part in parts:
        twice = (losses.keys() & part.losses.keys()) | (totals.keys() & part.totals.keys())
        if twice:
            raise ValueError(f"Several loss terms are named {sorted(twice)}.")
        losses.update(part.losses)
        totals.update(part.totals)
    for name, term in losses.items():
        if term.normalizer not in totals:
            raise ValueError(
                f"The loss term {name!r} is to be divided by {term.normalizer!r}, but the totals "
                f"are {list(totals)}."
            )
    return LossTerms(losses, totals)
