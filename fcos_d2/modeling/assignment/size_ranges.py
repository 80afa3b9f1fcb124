"""
The size range of each level, and the levels that can take a box (arXiv:1904.01355, Sec. 3.2).

M = gt boxes of the batch, L = levels, V = levels that are considered for each box.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import inf

import torch
from torch import Tensor

from ...errors import InputError, count_words
from ..levels import constant_on

__all__ = ["candidate_levels", "fitting_sides", "num_candidate_levels", "size_ranges_from_sizes"]

_SLACK = 1.0  # pixels; more than rounding errors, since this is only a first, necessary test


def size_ranges_from_sizes(
    sizes_of_interest: Sequence[float], num_levels: int
) -> list[tuple[float, float]]:
    """
    Return the range of max(l, t, r, b) that each level is responsible for, both ends inclusive.

    Args:
        sizes_of_interest (list[float]): The L - 1 borders m_2 .. m_L between neighboring levels, in
            pixels and ascending.
        num_levels (int): L.

    Raises:
        InputError: If the number of borders is wrong.
    """
    borders = [float(size) for size in sizes_of_interest]
    if len(borders) != num_levels - 1:
        raise InputError(
            f"MODEL.FCOS.SIZES_OF_INTEREST = {list(sizes_of_interest)} has "
            f"{count_words(len(borders), '{value|values}')}, "
            f"but {num_levels} levels need {num_levels - 1}: one border between two neighbors.",
            key="MODEL.FCOS.SIZES_OF_INTEREST",
            value=sizes_of_interest,
        )
    return list(pairwise([0.0, *borders, inf]))


def fitting_sides(
    size_ranges: Sequence[tuple[float, float]], reaches: Sequence[float]
) -> list[tuple[float, float]]:
    """
    Return the range of the longer side of a box for which a level can have positive locations.

    The condition is necessary, not sufficient. For a location inside a box with the longer side s:

    - s / 2 <= max(l, t, r, b) < s.
    - max(l, t, r, b) <= s / 2 + the distance of the location from the center of the box.

    Args:
        size_ranges (list[tuple[float, float]]): (low, high) of each level, see
            ``size_ranges_from_sizes``.
        reaches (list[float]): For each level, the largest distance between a positive location and
            the center of its box, along either axis and in pixels; inf means anywhere in the box.

    Returns:
        list[tuple[float, float]]: (least, most) of each level, in pixels.
    """
    return [
        (max(low, 2 * (low - reach)) - _SLACK, 2 * high + _SLACK)
        for (low, high), reach in zip(size_ranges, reaches, strict=True)
    ]


def num_candidate_levels(sides: Sequence[tuple[float, float]]) -> int:
    """
    Return V, the largest number of neighboring levels that can take the same box.

    V is 2 with the default settings, where each range is twice as large as the previous one.

    Args:
        sides (list[tuple[float, float]]): (least, most) of each level, see ``fitting_sides``.
    """
    # A box whose first level is `first` is no larger than that level's `most`. Count the levels
    # that can also take a box of this size.
    return max(
        last - first + 1
        for first, (_, most) in enumerate(sides)
        for last, (least, _) in enumerate(sides)
        if least <= most
    )


def candidate_levels(longer_sides: Tensor, sides: Sequence[tuple[float, float]]) -> Tensor:
    """
    Return V neighboring levels for each box, which include all levels that can take it.

    Args:
        longer_sides (Tensor): (M,) longer side of each box, in pixels.
        sides (list[tuple[float, float]]): (least, most) of each level, see ``fitting_sides``.

    Returns:
        Tensor: (V, M) int64 level indices, ascending along V.
    """
    device, num_levels = longer_sides.device, num_candidate_levels(sides)
    ends = constant_on([most for _, most in sides[:-1]], device)  # (L - 1,)
    first = torch.bucketize(longer_sides, ends)  # (M,)
    offsets = torch.arange(num_levels, device=device)[:, None]  # (V, 1)
    return first.clamp(max=len(sides) - num_levels) + offsets  # (V, M)
