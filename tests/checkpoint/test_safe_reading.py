"""Reading pickles: arrays of every layout are read, and forged arrays are refused."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
from input_errors import input_error

from fcos_d2.checkpoint import read_checkpoint


class ForgedArray:
    """An array of objects made from bytes, which NumPy would use as pointers."""

    def __reduce__(self):
        return np.ndarray, ((1,), np.dtype("O"), b"AAAAAAAA")


class ForgedState:
    """An array whose state makes bytes its objects, which NumPy would use as pointers."""

    def __reduce__(self):
        reconstruct = np.empty(0).__reduce__()[0]
        state = (1, (4,), np.dtype("O"), False, b"A" * 32)
        return reconstruct, (np.ndarray, (0,), b"b"), state


class TooLong:
    """An array whose state has fewer bytes than its shape needs."""

    def __reduce__(self):
        reconstruct = np.empty(0).__reduce__()[0]
        return reconstruct, (np.ndarray, (0,), b"b"), (1, (9,), np.dtype("f8"), False, b"A" * 8)


@pytest.mark.parametrize("forged", [ForgedArray, ForgedState, TooLong])
@pytest.mark.parametrize("protocol", [2, 4])
def test_forged_arrays_are_refused(folder, forged, protocol):
    (folder / "a.pkl").write_bytes(pickle.dumps({"w": forged()}, protocol))
    with input_error("a.pkl"):
        read_checkpoint("a.pkl")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(3, dtype=np.int64),
        np.zeros((0, 4), np.float16),
        np.array([True, False]),
    ],
    ids=["big-endian", "fortran", "scalar", "empty", "bool"],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_every_layout_are_read(folder, array, protocol):
    (folder / "a.pkl").write_bytes(pickle.dumps({"w": array}, protocol))
    read = read_checkpoint("a.pkl")["w"]
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_of_every_pickle_protocol_are_read(folder, protocol):
    content = {"b": OrderedDict(x=np.arange(6, dtype=np.float32).reshape(2, 3)), "n": np.float64(2)}
    (folder / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    read = read_checkpoint("a.pkl")
    np.testing.assert_array_equal(read["b"]["x"], content["b"]["x"])
    assert read["n"] == 2
