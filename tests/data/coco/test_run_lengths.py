"""Run-length encodings: decoded as by pycocotools, which accepts damaged ones and crashes."""

import numpy as np
import pytest
from pycocotools import mask

from fcos_d2.data.coco.run_lengths import is_run_length_encoding, read_run_lengths


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 1])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (700, 900)])
def test_the_runs_are_those_of_the_pixels(size, share):
    pixels = np.asfortranarray(np.random.default_rng(0).random(size) < share, np.uint8)
    rle = mask.encode(pixels)
    text = rle["counts"].decode("ascii")
    runs = read_run_lengths({"counts": text, "size": list(size)})
    values = np.arange(len(runs)) % 2
    np.testing.assert_array_equal(np.repeat(values, runs), pixels.ravel(order="F"))
    # The uncompressed form has the same runs.
    again = read_run_lengths({"counts": runs.tolist(), "size": list(size)})
    np.testing.assert_array_equal(again, runs)
    assert (
        mask.frPyObjects({"counts": runs.tolist(), "size": size}, *size)["counts"]
        == (rle["counts"])
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_text_that_is_accepted_is_decoded_as_by_pycocotools(seed):
    # Random texts that are accepted are rare, so that a valid one is changed.
    rng = np.random.default_rng(seed)
    pixels = np.asfortranarray(rng.random((30, 40)) < 0.3, np.uint8)
    text = list(mask.encode(pixels)["counts"].decode("ascii"))
    for _ in range(200):
        changed = text.copy()
        changed[rng.integers(len(text))] = chr(rng.integers(32, 127))
        rle = {"counts": "".join(changed), "size": [30, 40]}
        runs = read_run_lengths(rle)
        if runs is not None:
            assert mask.area(rle) == runs[1::2].sum()


@pytest.mark.parametrize(
    "rle",
    [
        {},
        {"counts": [1], "size": [0, 1]},
        {"counts": [1], "size": [1]},
        {"counts": [1], "size": [1, True]},
        {"counts": [1], "size": [1.0, 1]},
        {"counts": [-1, 2], "size": [1, 1]},
        {"counts": [2**32], "size": [1, 1]},
        {"counts": b"1", "size": [1, 1]},
    ],
)
def test_other_dicts_are_no_encodings(rle):
    assert not is_run_length_encoding(rle)
