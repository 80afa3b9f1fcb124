"""
Reading pickled NumPy arrays without running what the pickle says.

The .pkl files of detectron2's model zoo are dicts of arrays. Even NumPy's own constructors are not
safe in the hands of a file: an array of objects made from raw bytes is an array of pointers. So no
function that a file names is ever called; each name stands for one of ours, which takes the numbers
of an array and nothing else.
"""

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

__all__ = ["Refused", "load_arrays"]

_NUMBER = re.compile(r"[biufc][0-9]{1,2}")  # types of numbers; no objects, no structures


class Refused(Exception):
    """What a pickle wanted to use."""


def load_arrays(file: BinaryIO) -> Any:
    """
    The content of a pickle of dicts, lists, texts, numbers and arrays of numbers.

    Args:
        file (BinaryIO): open for reading; texts of Python 2 are read as latin1.

    Raises:
        Refused: the pickle names anything else; the text is the name.
    """
    return _plain(_ArrayUnpickler(file, encoding="latin1").load())


def _plain(value: Any) -> Any:
    """The value with real arrays in place of those that unpickling has left."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, dict):
        return type(value)((_plain(k), _plain(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    return value


class _Type:
    """Stands for the class ndarray, which pickles name as an argument."""


class _DType:
    """``numpy.dtype(name, ...)``, with the byte order that its state says."""

    def __init__(self, name: Any, *_: Any) -> None:
        text = str(name).lstrip("<>=|")
        if not _NUMBER.fullmatch(text):
            raise Refused(f"an array of type {name!r}")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """What ``_reconstruct`` gives: an empty array that its state fills."""

    array: np.ndarray[Any, Any] = np.empty(0)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        self.array = _from_buffer(data, dtype, shape, "F" if is_fortran else "C")


def _from_buffer(
    data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any
) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, _DType):
        raise Refused(f"an array of type {dtype!r}")
    # bytes(number) would be so many zeros.
    if not isinstance(data, (str, bytes, bytearray)):
        raise Refused(f"an array made from {type(data).__name__}")
    flat = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype.dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C").copy()


def _scalar(dtype: Any, data: Any) -> Any:
    return _from_buffer(data, dtype, (1,))[0]


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
    """How protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused(f"_codecs.encode({encoding!r})")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    """How protocol 2 writes no bytes."""
    return b""


# numpy.core is what NumPy 2 calls numpy._core.
_STAND_INS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): _Type,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty_bytes,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
}


class _StandIn:
    """Makes what a pickle has named, and no more: a pickle can set attributes of all it names."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setstate__(self, state: Any) -> None:
        raise Refused("attributes of a function")


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise Refused(f"{module}.{name}")
        return _StandIn(_STAND_INS[module, name])
