"""Keeping the random numbers of training independent of what is evaluated."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["random_state_kept"]


@contextmanager
def random_state_kept() -> Iterator[None]:
    """
    Restore the generators of Python, NumPy and PyTorch (on the CPU) afterwards.

    Reading data draws from them: the start of a loader from PyTorch's, and without workers a resize
    from NumPy's, though to a single size. On a GPU an evaluation draws nothing.
    """
    state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002  # the one that detectron2 draws from
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
