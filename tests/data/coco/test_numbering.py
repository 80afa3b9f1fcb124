"""Numbers of ids that may be of any type."""

import numpy as np
import pytest

from fcos_d2.data.coco.numbering import LARGEST_ID, number_annotations, number_ids


@pytest.mark.parametrize("ids", [[], [3, 1], [0], [LARGEST_ID]])
def test_unique_integers_are_their_own_numbers(ids):
    numbering = number_ids(ids)
    assert numbering.is_own
    assert numbering.look_up(ids).tolist() == ids


@pytest.mark.parametrize("ids", [["1"], [1.0], [LARGEST_ID + 1], [-1], ["01"]])
def test_other_ids_get_a_number(ids):
    numbering = number_ids(ids)
    assert not numbering.is_own
    assert numbering.look_up(ids).tolist() == [1]


def test_ids_are_found_in_any_type_and_others_are_not_found():
    numbering = number_ids([7, "a", "9"])
    own = [7, "7", 7.0, 9, "9", "a", "b", None, [7], 8]
    # "a" gets the next number after 9.
    assert numbering.look_up(own).tolist() == [7, 7, 7, 9, 9, 10, -1, -1, -1, -1]


def test_new_ids_are_above_all_that_are_kept():
    assert number_annotations([5, 5, 0]) == ({1: 6, 2: 7}, {"repeated": [1], "zero": [2]})


def test_valid_ids_are_kept():
    assert number_annotations([5, 1, LARGEST_ID]) == ({}, {})
    assert number_annotations([]) == ({}, {})


@pytest.mark.parametrize("seed", range(10))
def test_integers_are_numbered_as_mixed_ids_are(seed):
    rng = np.random.default_rng(seed)
    ids = rng.choice([-5, -1, 0, 1, 2, 3, 4, 7, 2**53, 2**53 + 1], 30).tolist()
    ids += rng.integers(1, 30, 20).tolist()
    mixed = number_annotations([*ids, "x"])  # read one by one
    numbers, faults = number_annotations(ids)
    assert {row: number for row, number in mixed[0].items() if row < len(ids)} == numbers
    others = [row for row in mixed[1]["other"] if row < len(ids)]
    assert {**mixed[1], "other": others} == {"other": [], **faults}
