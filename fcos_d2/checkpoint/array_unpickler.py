"""
Reading of pickled NumPy arrays without running code from the pickle.

The .pkl files of detectron2's model zoo are dicts of arrays. Even NumPy's own constructors are not
safe if a file chooses their arguments: an array of objects made from raw bytes is an array of
pointers. Therefore no function that a file names is ever called. Each allowed name is replaced by a
function or class of this module, which accepts only arrays of numbers.
"""

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

__all__ = ["UnsafePickleError", "load_arrays"]

_NUMBER = re.compile(r"[biufc][0-9]{1,2}")  # numeric types; no objects, no structures


class UnsafePickleError(Exception):
    """A pickle uses something that is not allowed; the text says what."""


def load_arrays(file: BinaryIO) -> Any:
    """
    Load a pickle of dicts, lists, strings, numbers and arrays of numbers.

    Args:
        file (BinaryIO): A file that is open for reading. Strings of Python 2 are read as latin1.

    Returns:
        The content of the pickle.

    Raises:
        UnsafePickleError: If the pickle names anything else. The message is this name.
    """
    return _replace_stand_ins(_ArrayUnpickler(file, encoding="latin1").load())


def _replace_stand_ins(value: Any) -> Any:
    """Return a value with NumPy arrays in place of the stand-ins that unpickling has made."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, dict):
        return type(value)((_replace_stand_ins(k), _replace_stand_ins(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(map(_replace_stand_ins, value))
    return value


class _Type:
    """The stand-in for the class ``ndarray``, which pickles name as an argument."""


class _DType:
    """The stand-in for ``numpy.dtype(name, ...)``; its state has the byte order."""

    def __init__(self, name: Any, *_: Any) -> None:
        text = str(name).lstrip("<>=|")
        if not _NUMBER.fullmatch(text):
            raise UnsafePickleError(f"an array of type {name!r}")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """The stand-in for the result of ``_reconstruct``: an empty array, filled by its state."""

    array: np.ndarray[Any, Any] = np.empty(0)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        self.array = _from_buffer(data, dtype, shape, "F" if is_fortran else "C")


def _from_buffer(
    data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any
) -> np.ndarray[Any, Any]:
    """Make an array from its bytes, as ``numpy.core.numeric._frombuffer`` does."""
    if not isinstance(dtype, _DType):
        raise UnsafePickleError(f"an array of type {dtype!r}")
    # Python's bytes(number) would make that many zeros.
    if not isinstance(data, (str, bytes, bytearray)):
        raise UnsafePickleError(f"an array made from {type(data).__name__}")
    flat = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype.dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C").copy()


def _scalar(dtype: Any, data: Any) -> Any:
    """Make a NumPy number from its bytes, as ``numpy.core.multiarray.scalar`` does."""
    return _from_buffer(data, dtype, (1,))[0]


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
    """Make bytes from a string; pickles of protocol 2 store bytes in this way."""
    if not isinstance(text, str) or encoding != "latin1":
        raise UnsafePickleError(f"_codecs.encode({encoding!r})")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    """Return empty bytes; pickles of protocol 2 store them as a call of ``bytes()``."""
    return b""


# NumPy 2 has renamed numpy.core to numpy._core.
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
    """
    A callable that a pickle gets for an allowed name.

    It refuses attributes, because a pickle can set attributes of everything that it names.
    """

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setstate__(self, state: Any) -> None:
        raise UnsafePickleError("attributes of a function")


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows only the names in ``_STAND_INS``."""

    def find_class(self, module: str, name: str) -> _StandIn:
        """Return the stand-in for a name, or raise UnsafePickleError."""
        if (module, name) not in _STAND_INS:
            raise UnsafePickleError(f"{module}.{name}")
        return _StandIn(_STAND_INS[module, name])
