"""Segmentations: areas and boxes, as pycocotools computes them, and repairs."""

import numpy as np
import pytest
from pycocotools import mask

from fcos_d2.data.coco.segmentations import (
    FLAT,
    INVALID,
    NO_MASK,
    NO_POLYGON,
    box_of_segmentation,
    read_segmentations,
)

TRIANGLE, SQUARE = [0, 0, 4, 0, 0, 3], [10, 10, 12, 10, 12, 12, 10, 12]


def read(values, size=(9, 7)):
    """Read segmentations of images with the same width and height."""
    return read_segmentations(values, np.tile(size, (len(values), 1)))


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
    result = read([[TRIANGLE], [TRIANGLE, SQUARE], [], None, [TRIANGLE[::-1]]])
    np.testing.assert_array_equal(result.areas, [6, 10, np.nan, np.nan, 6])
    assert (result.repaired, result.rows) == ({}, {})


@pytest.mark.parametrize("seed", range(5))
def test_area_and_box_of_a_mask_are_those_of_its_pixels(seed):
    pixels, uncompressed, compressed = random_rle(seed)
    ys, xs = np.nonzero(pixels)
    box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
    for rle in (uncompressed, compressed):
        assert read([rle]).areas.tolist() == [pixels.sum()]
        assert box_of_segmentation(rle) == box


def test_one_segmentation_that_is_not_valid_does_not_change_the_others():
    values = [[TRIANGLE], 5, SQUARE, [SQUARE, [1, 2]], [[]], {"counts": [1], "size": [0, 5]}]
    result = read(values)
    np.testing.assert_array_equal(result.areas, [6, np.nan, 4, 4, np.nan, np.nan])
    assert result.rows == {INVALID: [1, 5], FLAT: [2], NO_POLYGON: [3, 4]}
    assert result.repaired == {1: None, 2: [SQUARE], 3: [SQUARE], 4: None, 5: None}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, "1", None, True])
def test_polygons_of_other_values_than_finite_numbers_are_not_valid(value):
    assert read([[[*TRIANGLE[:5], value]]]).rows == {INVALID: [0]}


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2, "a", 4, 5, 6]],
        {"counts": None, "size": [7, 9]},
        {"counts": [63], "size": None},
        {"counts": [63]},
        "text",
        5,
        {"counts": [64, -1], "size": [7, 9]},
        {"counts": [63], "size": [7.5, 9]},
    ],
)
def test_segmentations_that_are_not_valid_are_dropped(value):
    result = read([value, [SQUARE]])
    assert (result.rows, result.repaired) == ({INVALID: [0]}, {0: None})
    assert not INVALID.is_fatal


def test_the_size_of_a_mask_may_be_floats():
    result = read([{"counts": [10, 20, 33], "size": [7.0, 9.0]}])
    assert (result.rows, result.areas.tolist()) == ({}, [20])
    assert result.repaired == {0: {"counts": [10, 20, 33], "size": [7, 9]}}
    assert set(map(type, result.repaired[0]["size"])) == {int}
    assert read([{"counts": [63], "size": [9.0, 7.0]}]).rows == {NO_MASK: [0]}


@pytest.mark.parametrize("others", [[{"counts": [63], "size": [7, 9]}], [5], [SQUARE], [[[1]]]])
def test_polygons_beside_others_are_read_as_those_alone(others):
    rng = np.random.default_rng(0)
    polygons = [rng.random((rng.integers(1, 3), 6)).tolist() for _ in range(20)]
    areas = read([*polygons[:7], *others, *polygons[7:]]).areas
    np.testing.assert_array_equal(np.delete(areas, 7), read(polygons).areas)


@pytest.mark.parametrize(
    "rle",
    [
        {"counts": [], "size": [7, 9]},
        {"counts": [10, 20], "size": [7, 9]},
        {"counts": [10, 20, 33], "size": [9, 7]},
        {"counts": [10, 20, 34], "size": [8, 8]},
        {"counts": [2**32 - 1] * 2, "size": [2**31, 4]},
        *({"counts": x, "size": [7, 9]} for x in ("o", "o" * 1000, "PPPP", "abc~", "0", "", "é")),
    ],
)
def test_run_lengths_that_do_not_fit_are_dropped(rle):
    result = read([rle, [SQUARE]])
    assert (result.rows, result.repaired) == ({NO_MASK: [0]}, {0: None})
    np.testing.assert_array_equal(result.areas, [np.nan, 4])


@pytest.mark.parametrize("value", [float("inf"), 1e300])
@pytest.mark.filterwarnings("error")
def test_infinite_polygons_cause_no_warning_of_numpy(value):
    read([[[*TRIANGLE[:5], value]]])
