"""The candidate levels of a box: examples computed by hand, and a check that none is missing."""

from math import inf

import pytest
import torch
from tiny import STRIDES

from fcos_d2.modeling.assignment.size_ranges import (
    candidate_levels,
    fitting_sides,
    num_candidate_levels,
    size_ranges_from_sizes,
)

BORDERS = [64, 128, 256, 512]


def sides_of(borders, reaches):
    return fitting_sides(size_ranges_from_sizes(borders, len(borders) + 1), reaches)


def test_sides_by_hand():
    # P3: half of the side is at most 64, so the side is at most 128. P4: the far side is at least
    # 64 from the location, and the location is up to 24 from the center, so the side is at least
    # 2 * 40. If the location may be anywhere in the box, the side is at least 64. Each range is
    # one pixel wider at both ends.
    near_middle = sides_of(BORDERS, [1.5 * x for x in STRIDES])
    assert near_middle == [(-1, 129), (79, 257), (159, 513), (319, 1025), (639, inf)]
    anywhere = sides_of(BORDERS, [inf] * 5)
    assert anywhere == [(-1, 129), (63, 257), (127, 513), (255, 1025), (511, inf)]


@pytest.mark.parametrize(
    ("borders", "reaches", "expected"),
    [
        (BORDERS, [1.5 * x for x in STRIDES], 2),  # as in the recipes
        (BORDERS, [inf] * 5, 3),  # a side of 128 pixels: P3, P4, and P5 by the extra pixel
        (BORDERS, [4 * x for x in STRIDES], 3),
        ([20, 25, 30, 35], [inf] * 5, 5),  # from 35 to 40 pixels
        ([], [12.0], 1),
    ],
)
def test_number_of_candidate_levels(borders, reaches, expected):
    assert num_candidate_levels(sides_of(borders, reaches)) == expected


def test_candidate_levels_of_boxes_by_hand():
    sides = sides_of(BORDERS, [1.5 * x for x in STRIDES])
    longer_sides = torch.tensor([0.0, 5.0, 129.0, 130.0, 300.0, 1000.0, 1e4, inf])
    first, second = candidate_levels(longer_sides, sides)
    assert first.tolist() == [0, 0, 0, 1, 2, 3, 3, 3]
    assert torch.equal(second, first + 1)


@pytest.mark.parametrize("borders", [BORDERS, [20, 25, 30, 35], [32, 300], []])
@pytest.mark.parametrize("reach", [1.5, inf])
def test_no_level_that_fits_is_missed(borders, reach):
    sides = sides_of(borders, [reach * x for x in STRIDES[: len(borders) + 1]])
    longer_sides = torch.arange(0, 1400, 0.25)
    levels = candidate_levels(longer_sides, sides)
    assert levels.min() >= 0
    assert levels.max() < len(sides)
    for level, (least, most) in enumerate(sides):
        fits = (longer_sides >= least) & (longer_sides <= most)
        assert (levels == level).any(dim=0)[fits].all()
