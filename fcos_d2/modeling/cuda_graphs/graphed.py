"""Functions that are launched as CUDA graphs, once the shapes of their inputs come back."""

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from .module_state import find_obstacle, list_modules, read_state
from .recording import Function, Recorder, Recording, record, replay

__all__ = ["Graphed"]

logger = logging.getLogger(__name__)

_MAX_RECORDINGS = 128
_MAX_COUNTS = 4096  # shapes that are remembered but not recorded
# Whether a graphed function is running: the parts of a network that are graphed functions as well
# become part of the outer recording.
_is_running: ContextVar[bool] = ContextVar("_is_running", default=False)


class Graphed:
    """
    A function of tensors whose kernels are recorded and then launched together.

    The first call with certain shapes runs normally. If the shapes come back, the call is recorded,
    and from then on it is replayed. A call also runs normally if something prevents recording, see
    ``module_state.find_obstacle``; this is logged once.

    Results are the same in all cases.

    Args:
        name (str): What it is, for the log.
        function (Callable): See ``recording.Function``.
        modules (Callable): Returns the modules that the function uses. If one of their tensors,
            settings or modes changes, the function is recorded again.
        recorder (Recorder): Records calls; the functions of a model share it.
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
        self.recordings: OrderedDict[Hashable, Recording] = OrderedDict()
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
        key = (_read_context(inputs), self.settings(), read_state(modules))
        recording = self.recordings.get(key)
        if recording is not None:
            self.recordings.move_to_end(key)
            return recording
        self._counts[key] += 1
        if self._counts[key] == 1 or key in self._failed:
            return None
        return self._record(key, inputs, modules)

    def _record(
        self, key: Hashable, inputs: Sequence[Tensor], modules: Sequence[nn.Module]
    ) -> Recording | None:
        """Record a call; return None if that fails."""
        parameters = {
            x: None
            for module in modules
            for x in module.parameters(recurse=False)
            if x.requires_grad
        }
        try:
            with _running():
                recording = record(self.recorder, self.function, inputs, list(parameters))
        except Exception as error:  # the same call has just run without an error
            self._failed.add(key)
            first_line = str(error).strip().partition("\n")[0]
            self._log_once(f"{type(error).__name__}: {first_line.rstrip('.')}")
            return None
        if len(self.recordings) >= _MAX_RECORDINGS:
            self.recordings.popitem(last=False)
        if len(self._counts) >= _MAX_COUNTS:
            self._counts.clear()
        self.recordings[key] = recording
        return recording

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
