"""Segmentations: areas and boxes, as pycocotools computes them, and repairs."""

import numpy as np
import pytest
from pycocotools import mask

from fcos_d2.data.coco.segmentations import (
    FLAT,
    INVALID,
    NO_POLYGON,
    box_of_segmentation,
    read_segmentations,
)

TRIANGLE, SQUARE = [0, 0, 4, 0, 0, 3], [10, 10, 12, 10, 12, 12, 10, 12]


def random_rle(seed):
    """Return a random mask, uncompressed and compressed."""
    pixels = np.asfortranarray(np.random.default_rng(seed).random((7, 9)) < 0.3, np.uint8)
    flat = pixels.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    compressed = mask.encode(pixels)
    text = compressed["counts"].decode("ascii")
    return pixels, {"counts": counts, "size": [7, 9]}, {"counts": text, "size": [7, 9]}


def test_areas_of_polygons_are_sums_and_others_have_none():
    # 4 x 3 / 2 = 6, and 2 x 2 = 4
    result = read_segmentations([[TRIANGLE], [TRIANGLE, SQUARE], [], None, [TRIANGLE[::-1]]])
    np.testing.assert_array_equal(result.areas, [6, 10, np.nan, np.nan, 6])
    assert (result.repaired, result.rows) == ({}, {})


@pytest.mark.parametrize("seed", range(5))
def test_area_and_box_of_a_mask_are_those_of_its_pixels(seed):
    pixels, uncompressed, compressed = random_rle(seed)
    ys, xs = np.nonzero(pixels)
    box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
    for rle in (uncompressed, compressed):
        assert read_segmentations([rle]).areas.tolist() == [pixels.sum()]
        assert box_of_segmentation(rle) == box


def test_one_segmentation_that_is_not_valid_does_not_change_the_others():
    values = [[TRIANGLE], 5, SQUARE, [SQUARE, [1, 2]], [[]], {"counts": [1], "size": [0, 5]}]
    result = read_segmentations(values)
    np.testing.assert_array_equal(result.areas, [6, np.nan, 4, 4, np.nan, np.nan])
    assert result.rows == {INVALID: [1, 5], FLAT: [2], NO_POLYGON: [3, 4]}
    assert result.repaired == {1: None, 2: [SQUARE], 3: [SQUARE], 4: None, 5: None}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, "1", None, True])
def test_polygons_of_other_values_than_finite_numbers_are_not_valid(value):
    assert read_segmentations([[[*TRIANGLE[:5], value]]]).rows == {INVALID: [0]}
