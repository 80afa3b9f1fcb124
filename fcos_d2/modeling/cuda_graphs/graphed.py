"""Functions that are launched as CUDA graphs, once the shapes of their inputs come back."""

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .module_state import find_obstacle, list_modules, read_modes, read_tensors
from .recording import Function, Recorder, Recording, record, replay

__all__ = ["Graphed"]

logger = logging.getLogger(__name__)

# A recording of a training step takes about 10 MB of a GPU's memory.
_MAX_RECORDINGS = 64
_MAX_COUNTS = 4096  # shapes that are remembered but not recorded
# Whether a graphed function is running: the parts of a network that are graphed functions as well
# become part of the outer recording.
_is_running: ContextVar[bool] = ContextVar("_is_running", default=False)


class _Entry(NamedTuple):
    """A recording, and the tensors of the modules that it was made with."""

    tensors: Hashable
    recording: Recording


class Graphed:
    """
    A function of tensors whose kernels are recorded and then launched together.

    The first call with certain shapes runs normally. If the shapes come back, the call is recorded,
    and from then on it is replayed. A limited number of recordings is kept, those of the shapes
    that occur most. A call also runs normally if something prevents recording, see
    ``module_state.find_obstacle``; this is logged once.

    Results are the same in all cases.

    Args:
        name (str): What it is, for the log.
        function (Callable): See ``recording.Function``.
        modules (Callable): Returns the modules that the function uses. If one of their tensors is
            replaced, calls are recorded again.
        recorder (Recorder): Records calls; the functions of a model may share it.
        settings (Callable): Returns other values that the function depends on.
    """

    def __init__(
        self,
        name: str,
        function: Function,
        modules: Callable[[], Sequence[nn.Module]],
        recorder: Recorder,
        settings: Callable[[], Hashable] = tuple,
    ) -> None:
        self.name = name
        self.function = function
        self.modules = modules
        self.recorder = recorder
        self.settings = settings
        self.recordings: dict[Hashable, _Entry] = {}
        self._counts: Counter[Hashable] = Counter()
        self._failed: set[Hashable] = set()
        self._logged: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        """Make copies and pickles without recordings."""
        arguments = (self.name, self.function, self.modules, self.recorder, self.settings)
        return Graphed, arguments

    def __call__(self, *inputs: Tensor) -> Any:
        """Call the function."""
        recording = self._find_recording(inputs)
        if recording is not None:
            return replay(self.recorder, recording, inputs)
        with _running():
            return self.function(*inputs)

    def _find_recording(self, inputs: Sequence[Tensor]) -> Recording | None:
        """Return the recording for these inputs, which may be made now, or None."""
        if (
            _is_running.get()
            or torch.jit.is_tracing()
            or torch.compiler.is_compiling()
            or not self.recorder.can_record(inputs[0].device)
            or self.recorder.is_pending()
        ):
            return None
        modules = list_modules(self.modules())
        obstacle = find_obstacle(modules)
        if obstacle:
            self._log_once(obstacle)
            return None
        key = (_read_context(inputs), self.settings(), read_modes(modules))
        tensors = read_tensors(modules)
        entry = self.recordings.get(key)
        if entry is not None and entry.tensors != tensors:
            del self.recordings[key]
            self._counts[key] = 0
        elif entry is not None:
            self._counts[key] += 1
            return entry.recording
        if len(self._counts) >= _MAX_COUNTS:
            self._counts = Counter({x: self._counts[x] for x in (*self.recordings, key)})
        self._counts[key] += 1
        if self._counts[key] == 1 or key in self._failed or not self._make_room(key):
            return None
        recording = self._record(inputs, modules)
        if recording is None:
            self._failed.add(key)
        else:
            self.recordings[key] = _Entry(tensors, recording)
        return recording

    def _make_room(self, key: Hashable) -> bool:
        """Return whether there is room for a recording, after dropping one that is used less."""
        if len(self.recordings) < _MAX_RECORDINGS:
            return True
        least_used = min(self.recordings, key=self._counts.__getitem__)
        if self._counts[least_used] >= self._counts[key]:
            return False
        del self.recordings[least_used]
        return True

    def _record(self, inputs: Sequence[Tensor], modules: Sequence[nn.Module]) -> Recording | None:
        """Record a call; return None if that fails."""
        parameters = {
            x: None
            for module in modules
            for x in module.parameters(recurse=False)
            if x.requires_grad
        }
        try:
            with _running():
                return record(self.recorder, self.function, inputs, list(parameters))
        except Exception as error:  # the same call has run without an error
            first_line = str(error).strip().partition("\n")[0]
            self._log_once(f"{type(error).__name__}: {first_line.rstrip('.')}")
            return None

    def _log_once(self, reason: str) -> None:
        """Log why calls are not recorded."""
        if reason not in self._logged:
            self._logged.add(reason)
            logger.warning(
                "%s runs without a CUDA graph, because it cannot be recorded: %s. Results are the "
                "same; MODEL.FCOS.CUDA_GRAPHS 'none' avoids this message.",
                self.name,
                reason,
            )


def _read_context(inputs: Sequence[Tensor]) -> Hashable:
    """Return all that a recording depends on besides its modules."""
    device_type = inputs[0].device.type
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type),
        *((x.shape, x.stride(), x.dtype, x.device, x.requires_grad) for x in inputs),
    )


@contextmanager
def _running() -> Iterator[None]:
    """Mark that a graphed function is running."""
    token = _is_running.set(True)
    try:
        yield
    finally:
        _is_running.reset(token)
