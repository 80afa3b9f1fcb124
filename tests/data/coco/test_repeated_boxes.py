"""The search for objects that are annotated more than once."""

import numpy as np

from fcos_d2.data.coco.repeated_boxes import find_repeated


def test_rows_are_found_as_by_comparing_each_with_all_earlier_ones():
    rows = np.random.default_rng(0).integers(-1, 3, (300, 4)) / 3
    rows[rows == 0] *= np.random.default_rng(1).choice([-1, 1], (rows == 0).sum())  # some -0.0
    expected = [i for i, x in enumerate(rows) if (rows[:i] == x).all(1).any()]
    assert 0 < len(expected) < len(rows)
    assert find_repeated(rows).tolist() == expected


def test_different_rows_are_not_found():
    rows = np.stack(np.meshgrid(*[np.arange(40.0)] * 3), -1).reshape(-1, 3)
    assert find_repeated(rows).tolist() == []
    assert find_repeated(rows[:0]).tolist() == []
