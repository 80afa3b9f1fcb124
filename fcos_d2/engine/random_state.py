"""A context that keeps an evaluation from changing the random numbers of training."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["preserve_random_state"]


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """
    Restore the random generators of Python, NumPy and PyTorch (on the CPU) after the block.

    Reading data uses them: starting a data loader draws from PyTorch's generator, and a resize in
    the main process draws from NumPy's, even if there is only one size to draw from. On a GPU an
    evaluation draws no random numbers.
    """
    state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002  # detectron2 draws from this generator
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
