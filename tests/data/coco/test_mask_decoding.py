"""Masks of polygons and run-length encodings."""

import numpy as np
import pycocotools.mask as mask_util
import pytest

from fcos_d2.data.coco import decode_segmentation

MASK = np.zeros((6, 9), dtype=bool)
MASK[1:4, 2:8] = True
MASK[2, 4] = False


def compressed(mask):
    """Return pycocotools' encoding, whose counts are bytes."""
    return mask_util.encode(np.asfortranarray(mask.view(np.uint8)))


def as_text(rle):
    """Return an encoding with text instead of bytes, as in JSON."""
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def test_polygons_are_filled_together():
    square, other = [2, 1, 8, 1, 8, 4, 2, 4], np.array([0.0, 5, 2, 5, 2, 6, 0, 6])
    expected = np.zeros((6, 9), dtype=bool)
    expected[1:4, 2:8] = expected[5, :2] = True
    assert (decode_segmentation([square, other], 6, 9) == expected).all()
    # A line and a point have no area.
    assert (decode_segmentation([square, other, [0, 0, 9, 6], [1, 1]], 6, 9) == expected).all()
    assert not decode_segmentation([[0, 0, 9, 6]], 6, 9).any()


@pytest.mark.parametrize(
    "rle",
    [
        compressed(MASK),
        as_text(compressed(MASK)),
        {"size": [6, 9], "counts": [13, 3, 3, 3, 3, 1, 1, 1, 3, 3, 3, 3, 3, 3, 8]},
    ],
    ids=["bytes", "text", "numbers"],
)
def test_run_lengths_are_decoded(rle):
    assert (decode_segmentation(rle, 6, 9) == MASK).all()


@pytest.mark.parametrize("mask", [np.zeros_like(MASK), np.ones_like(MASK)], ids=["empty", "full"])
def test_uniform_masks_are_decoded(mask):
    assert (decode_segmentation(compressed(mask), 6, 9) == mask).all()
    assert (decode_segmentation(mask, 6, 9) == mask).all()


@pytest.mark.parametrize(
    "segmentation",
    [
        compressed(MASK.T),
        MASK.T,
        {"size": [6, 9], "counts": "x"},
        {"size": [6, 9], "counts": b"\xff"},
        {"size": [6, 9], "counts": [5]},
    ],
    ids=["size", "size of a mask", "text", "bytes", "too short"],
)
def test_damaged_masks_and_those_of_another_size_are_none(segmentation):
    assert decode_segmentation(segmentation, 6, 9) is None
