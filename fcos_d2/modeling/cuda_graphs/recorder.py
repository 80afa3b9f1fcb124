"""
Recording of kernels as CUDA graphs, and the memory that all recordings of a model share.

To record a call means to collect its kernels, which do not run. To launch a recording means to run
all of these kernels at once. They always use the same addresses. So a recording reads its inputs
from buffers and writes its outputs to buffers.
"""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

__all__ = ["CudaRecorder", "PendingBackward"]

T = TypeVar("T")
_GROWTH = 1.5  # a buffer that becomes too small is replaced by one with this much room


class PendingBackward:
    """A forward pass whose backward pass has not run yet; it ends with its autograd graph."""


class _Place(NamedTuple):
    """
    Where calls are recorded.

    Attributes:
        device (torch.device): The GPU.
        caller (torch.cuda.Stream): The stream that recordings are launched on.
        stream (torch.cuda.Stream): The stream that calls are recorded on.
        pool (tuple): The memory pool of all recordings.
        keeper (torch.cuda.CUDAGraph): A graph that keeps the pool alive while there is no other.
    """

    device: torch.device
    caller: torch.cuda.Stream
    stream: torch.cuda.Stream
    pool: Any
    keeper: torch.cuda.CUDAGraph


class CudaRecorder:
    """
    Records calls as CUDA graphs.

    All graphs of a recorder use the same memory: activations are in one memory pool, and inputs,
    outputs and gradients are in shared buffers. Therefore ``graph_cache.GraphCache`` launches no
    recording between a forward pass and its backward pass, nor on another stream.

    Attributes:
        lock (RLock): Held while a recording is made or launched.
        is_broken (bool): Whether a recording has failed. Then nothing more is recorded, because the
            state of PyTorch's memory pools is unknown.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.is_broken = False
        self._place: _Place | None = None
        self._buffers: dict[tuple[str, int, torch.dtype, bool], Tensor] = {}
        self._pending: weakref.ref[PendingBackward] | None = None

    def __reduce__(self) -> tuple[type["CudaRecorder"], tuple[()]]:
        """Make copies and pickles that are new recorders."""
        return CudaRecorder, ()

    def can_record(self, device: torch.device) -> bool:
        """Return whether calls on a device can be recorded or launched now."""
        if device.type != "cuda" or self.is_broken or torch.cuda.is_current_stream_capturing():
            return False
        place = self._place
        if place is None:
            return True
        return place.device == device and place.caller == torch.cuda.current_stream(device)

    def capture(
        self, function: Callable[[], T], device: torch.device
    ) -> tuple[Callable[[], None], T]:
        """
        Record a call.

        Args:
            function (Callable): A function that has already run with tensors of the same shapes, so
                that libraries are set up and kernels are compiled.
            device (torch.device): The GPU of its tensors.

        Returns:
            tuple[Callable, Any]: A function that launches the recording, and the result of the
            call, whose tensors get their values from the launches.

        Raises:
            Exception: If the call cannot be recorded, for example because it reads a value on the
                host.
        """
        graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[device.index or 0]
        random_state = generator.clone_state()
        try:
            with torch.cuda.device(device), _without_garbage_collection():
                place = self._place = self._place or _make_place(device)
                # Recordings cannot use the memory that PyTorch keeps from other calls.
                torch.cuda.empty_cache()
                with _capturing(graph, place.stream, place.pool):
                    result = function()
                place.caller.wait_stream(place.stream)
        except BaseException:
            self.is_broken = True
            generator.graphsafe_set_state(random_state)  # it may still expect a recording
            if self._place is not None:
                # Before version 2.12, PyTorch leaves the pool open, and freeing memory then fails.
                with suppress(RuntimeError, AttributeError):
                    torch._C._cuda_endAllocateToPool(device.index or 0, self._place.pool)
            raise

        def launch() -> None:
            """Launch the recording."""
            with torch.cuda.device(device):
                graph.replay()

        return launch, result

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
        # Tensors that are made in inference mode can be changed only there.
        key = (name, index, dtype, torch.is_inference_mode_enabled())
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < numel or buffer.device != device:
            size = numel if buffer is None else int(_GROWTH * numel)
            # Earlier recordings keep the earlier buffer.
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


def _make_place(device: torch.device) -> _Place:
    """Prepare a GPU for recording."""
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
    keeper = torch.cuda.CUDAGraph()
    with _capturing(keeper, stream, pool):
        torch.zeros(1, device=device)
    return _Place(device, torch.cuda.current_stream(device), stream, pool, keeper)


@contextmanager
def _capturing(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream, pool: Any) -> Iterator[None]:
    """Record kernels in a graph instead of running them."""
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        # Other threads, such as the one that pins the memory of batches, call CUDA meanwhile.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            yield
        except BaseException:
            with suppress(RuntimeError):  # the first error says more
                graph.capture_end()
            raise
        graph.capture_end()


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
