"""Boxes of annotation files as arrays, and their kinds."""

import numpy as np
import pytest

from fcos_d2.data.coco.box_checks import (
    NEGATIVE,
    NO_AREA,
    NOT_FINITE,
    OUTSIDE,
    REACHES_OUT,
    find_box_kinds,
    read_boxes,
    read_numbers,
)


@pytest.mark.parametrize("wrong", ["1,2,3,4", [1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, True], None])
def test_what_is_not_a_list_of_four_numbers_is_not_valid(wrong):
    boxes, is_valid = read_boxes([[1, 2.5, 3, 4], wrong])
    assert is_valid.tolist() == [True, False]
    assert boxes[0].tolist() == [1, 2.5, 3, 4]


def test_huge_integers_become_infinite():
    boxes, is_valid = read_boxes([[1, 2, 10**400, 4]])
    assert is_valid.all()
    assert boxes.tolist() == [[1, 2, np.inf, 4]]


def test_values_that_are_no_numbers_become_nan():
    np.testing.assert_array_equal(read_numbers([1, 2.5, "3", None, True, 10**400])[:2], [1, 2.5])
    assert np.isnan(read_numbers([1, 2.5, "3", None, True, 10**400])[2:]).all()


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ([0, 0, 96, 64], None),
        ([-1, -1, 98, 66], None),  # rounded by up to a pixel
        ([-1.5, 0, 5, 5], REACHES_OUT),
        ([92, 0, 6, 5], REACHES_OUT),
        ([96, 0, 5, 5], OUTSIDE),
        ([-5, 0, 5, 5], OUTSIDE),
        ([1, 1, 0, 5], NO_AREA),
        ([1, 1, 5, -5], NEGATIVE),
        ([np.nan, 1, 5, -5], NOT_FINITE),
        ([1, 1, 5, np.inf], NOT_FINITE),
    ],
)
def test_a_box_is_of_one_kind_at_most(box, kind):
    kinds = find_box_kinds(np.array([box], float), np.array([[96, 64]]))
    assert [x for x, where in kinds.items() if where[0]] == ([] if kind is None else [kind])
