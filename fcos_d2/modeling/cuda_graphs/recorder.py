"""
Recording of kernels with CUDA graphs, and the memory that all recordings of a model share.

A CUDA graph launches the kernels of a whole network with one call, always on the same addresses. So
a recording reads its inputs from fixed buffers and writes its outputs to fixed buffers.
"""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["CudaRecorder", "PendingBackward"]

T = TypeVar("T")
_GROWTH = 1.5  # a buffer that becomes too small is replaced by one with this much room


class PendingBackward:
    """A forward pass whose backward pass has not run yet; it ends with its autograd graph."""


class CudaRecorder:
    """
    Records calls as CUDA graphs.

    All graphs of a recorder use the same memory: activations are in one memory pool, and inputs,
    outputs and gradients are in shared buffers. So there must be no other replay between a forward
    pass and its backward pass.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None
        self._buffers: dict[tuple[str, int, torch.dtype], Tensor] = {}
        self._pending: weakref.ref[PendingBackward] | None = None

    def __reduce__(self) -> tuple[type["CudaRecorder"], tuple[()]]:
        """Make copies and pickles that are new recorders."""
        return CudaRecorder, ()

    def can_record(self, device: torch.device) -> bool:
        """Return whether calls on a device can be recorded or replayed now."""
        return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()

    def capture(self, function: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """
        Record the kernels of a call, which do not run.

        Args:
            function (Callable): A function that has already run with tensors of the same shapes, so
                that libraries are set up and kernels are compiled.

        Returns:
            tuple[Callable, Any]: A function that launches the kernels on the current stream, and
            the result of the call, whose tensors get their values from these launches.

        Raises:
            Exception: If the call cannot be recorded, for example because it reads a value on the
                host.
        """
        graph = torch.cuda.CUDAGraph()
        if self._pool is None or self._stream is None:
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream), _without_garbage_collection():
            # Other threads, such as the one that pins the memory of batches, call CUDA meanwhile.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = function()
            except BaseException:
                self._pool = None  # its state is unknown after a failure
                with suppress(RuntimeError):  # the first error says more
                    graph.capture_end()
                raise
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        return graph.replay, result

    def buffer(
        self, name: str, index: int, numel: int, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """
        Return a part of a buffer that all recordings share.

        Args:
            name (str): What the buffer is for.
            index (int): Its number: tensors that exist at the same time need different numbers.
            numel (int): Number of elements.
            dtype (torch.dtype): Their type.
            device (torch.device): Their device.

        Returns:
            Tensor: (numel,), with any values.
        """
        key = (name, index, dtype)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < numel or buffer.device != device:
            size = numel if buffer is None else int(_GROWTH * numel)
            # Earlier recordings keep the earlier buffer.
            with torch.inference_mode(False):
                buffer = self._buffers[key] = torch.empty(size, dtype=dtype, device=device)
        return buffer[:numel]

    def begin_forward(self) -> PendingBackward:
        """Return a new object that stands for a forward pass whose backward pass has not run."""
        pending = PendingBackward()
        self._pending = weakref.ref(pending)
        return pending

    def end_forward(self, pending: PendingBackward) -> None:
        """
        Mark the backward pass of a forward pass as done.

        Raises:
            RuntimeError: If it was done before.
        """
        if self._pending is None or self._pending() is not pending:
            raise RuntimeError(
                "The backward pass of a model with CUDA graphs can run only once, because it "
                "overwrites the activations. Set MODEL.FCOS.CUDA_GRAPHS to 'none' or 'inference' "
                "for backward passes with retain_graph=True."
            )
        self._pending = None

    def is_pending(self) -> bool:
        """Return whether there is a forward pass whose backward pass has not run."""
        return self._pending is not None and self._pending() is not None


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Postpone garbage collection, which may destroy another graph: an error while recording."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
