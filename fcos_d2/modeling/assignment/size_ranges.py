"""
Which levels care for a box of some size (arXiv:1904.01355, Sec. 3.2).

M = boxes, L = levels, V = levels that one box can have locations on.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import inf

import torch
from torch import Tensor

from ...errors import InputError
from ..levels import constant_on

__all__ = ["candidate_levels", "fitting_sides", "num_candidate_levels", "size_ranges_from_sizes"]

_SLACK = 1.0  # pixels; keeps rounding out of what is only a first look


def size_ranges_from_sizes(
    sizes_of_interest: Sequence[float], num_levels: int
) -> list[tuple[float, float]]:
    """
    Range of max(l, t, r, b) that each level cares for, both ends inclusive.

    Args:
        sizes_of_interest (list[float]): the L - 1 borders m_2 .. m_L in pixels, ascending.
        num_levels (int): L.

    Raises:
        InputError: wrong number of borders, or not ascending.
    """
    borders = [float(size) for size in sizes_of_interest]
    if len(borders) != num_levels - 1:
        raise InputError(
            f"MODEL.FCOS.SIZES_OF_INTEREST = {list(sizes_of_interest)} has {len(borders)} values, "
            f"but {num_levels} levels need {num_levels - 1}: one border between neighbours."
        )
    return list(pairwise([0.0, *borders, inf]))


def fitting_sides(
    size_ranges: Sequence[tuple[float, float]], reaches: Sequence[float]
) -> list[tuple[float, float]]:
    """
    The longer sides that boxes must have for any location of a level to take them: necessary, not
    sufficient.

    From anywhere inside a box max(l, t, r, b) is at least half the longer side and less than the
    whole of it; and no more than half of it plus the distance from the centre.

    Args:
        size_ranges (list): (low, high) of each level, see ``size_ranges_from_sizes``.
        reaches (list[float]): how far from the box's centre, along either axis, the locations of
            each level may lie, in pixels; inf: anywhere inside the box.

    Returns:
        list[tuple[float, float]]: (least, most) of each level, in pixels.
    """
    return [
        (max(low, 2 * (low - reach)) - _SLACK, 2 * high + _SLACK)
        for (low, high), reach in zip(size_ranges, reaches, strict=True)
    ]


def num_candidate_levels(sides: Sequence[tuple[float, float]]) -> int:
    """V, of what ``fitting_sides`` gives: 2 by default, where ranges double."""
    # A box whose first level is i is at most as large as that takes, which others must take too.
    return max(
        last - first + 1
        for first, (_, most) in enumerate(sides)
        for last, (least, _) in enumerate(sides)
        if least <= most
    )


def candidate_levels(longer_sides: Tensor, sides: Sequence[tuple[float, float]]) -> Tensor:
    """
    For each box V neighbouring levels, among them all that can take it.

    Args:
        longer_sides (Tensor): (M,) of the boxes, in pixels.
        sides (list): see ``fitting_sides``.

    Returns:
        Tensor: (V, M) int64 indices of levels, ascending.
    """
    device, num_levels = longer_sides.device, num_candidate_levels(sides)
    first = torch.bucketize(longer_sides, constant_on([most for _, most in sides[:-1]], device))
    offsets = torch.arange(num_levels, device=device)[:, None]
    return first.clamp(max=len(sides) - num_levels) + offsets
