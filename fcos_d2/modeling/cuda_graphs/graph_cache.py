"""The recordings of a function, one for each shape of its inputs that comes back."""

import logging
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .module_state import ModuleState, find_obstacle, list_modules
from .recorder import CudaRecorder
from .recording import Function, Recording, Structure, launch, record

__all__ = ["GraphCache"]

logger = logging.getLogger(__name__)

# A recording of a training step takes about 10 MB of a GPU's memory.
_MAX_RECORDINGS = 64
# After this number of calls, all counts are halved: sizes of an earlier phase are forgotten.
_CALLS_UNTIL_HALVED = 4096
# Whether a function of a cache is running: parts of a network with their own cache then become part
# of the outer recording.
_is_running: ContextVar[bool] = ContextVar("_is_running", default=False)


@dataclass
class _Entry:
    """
    What is known about the calls with the same key.

    Attributes:
        count (int): How often there was such a call, halved from time to time.
        recording (Recording | None): The recording, if there is one.
        state (ModuleState | None): The state of the modules when it was made.
        is_refused (bool): Whether such calls cannot be recorded.
    """

    count: int = 0
    recording: Recording | None = None
    state: ModuleState | None = None
    is_refused: bool = False


class GraphCache:
    """
    The recordings of a function of tensors.

    The first call with certain shapes runs normally. If the shapes come back, the call is recorded,
    and from then on the recording is launched. A limited number of recordings is kept, those of the
    shapes that occur most. A call also runs normally if something prevents recording, see
    ``module_state.find_obstacle``; this is logged once.

    Python code of the function does not run when a recording is launched. So apart from tensors,
    modules, modes and settings, the function may depend only on the shapes of its inputs.

    Args:
        name (str): What the function is, for the log.
        recorder (CudaRecorder): Records calls; the caches of a model may share it.
    """

    def __init__(self, name: str, recorder: CudaRecorder) -> None:
        self.name = name
        self.recorder = recorder
        self._entries: dict[Hashable, _Entry] = {}
        self._num_calls = 0
        self._logged: set[str] = set()

    def __reduce__(self) -> tuple[type["GraphCache"], tuple[str, CudaRecorder]]:
        """Make copies and pickles without recordings."""
        return GraphCache, (self.name, self.recorder)

    @property
    def num_recordings(self) -> int:
        """The number of recordings."""
        return sum(x.recording is not None for x in self._entries.values())

    def call(
        self,
        function: Function,
        inputs: Sequence[Tensor],
        modules: Sequence[nn.Module],
        settings: Hashable = (),
    ) -> Any:
        """
        Call a function, or launch its recording.

        Args:
            function (Callable): The function, the same for all calls.
            inputs (list[Tensor]): Its arguments.
            modules (Sequence[nn.Module]): The modules that it uses. If a submodule or a tensor of
                them is replaced, or a mode changes, calls are recorded again.
            settings (Hashable): Other values that it depends on.
        """
        if not self._may_record(inputs[0].device):
            return _run(function, inputs)
        all_modules = list_modules(modules)
        obstacle = find_obstacle(all_modules)
        if obstacle:
            self._log_once(obstacle)
            return _run(function, inputs)
        key = (_read_context(inputs), settings, tuple(x.training for x in all_modules))
        with self.recorder.lock:
            entry = self._count_call(key)
            if entry.state is not None and not entry.state.matches(all_modules):
                entry.recording = entry.state = None
                entry.count = 1
            if entry.recording is None and entry.count > 1 and self._make_room(entry):
                self._record(entry, function, inputs, all_modules)
            if entry.recording is not None:
                return launch(self.recorder, entry.recording, inputs)
        result = _run(function, inputs)
        if entry.count == 1:
            self._check_result(entry, result)
        return result

    def _may_record(self, device: torch.device) -> bool:
        """Return whether a call may be recorded or launched now."""
        return not (
            _is_running.get()
            or torch.jit.is_tracing()
            or torch.compiler.is_compiling()
            or torch._C._current_graph_task_id() != -1  # in a backward pass (checkpointing)
            or not self.recorder.can_record(device)
            or self.recorder.is_pending()
        )

    def _count_call(self, key: Hashable) -> _Entry:
        """Count a call, and return its entry."""
        self._num_calls += 1
        if self._num_calls % _CALLS_UNTIL_HALVED == 0:
            for entry in self._entries.values():
                entry.count //= 2
            self._entries = {
                x: entry for x, entry in self._entries.items() if entry.count or entry.recording
            }
        entry = self._entries.setdefault(key, _Entry())
        entry.count += 1
        return entry

    def _make_room(self, entry: _Entry) -> bool:
        """Return whether an entry may have a recording; drop one of an entry that is used less."""
        if entry.is_refused:
            return False
        recorded = [x for x in self._entries.values() if x.recording is not None]
        if len(recorded) < _MAX_RECORDINGS:
            return True
        least_used = min(recorded, key=lambda x: x.count)
        if least_used.count >= entry.count:
            return False
        least_used.recording = least_used.state = None
        return True

    def _record(
        self,
        entry: _Entry,
        function: Function,
        inputs: Sequence[Tensor],
        modules: Sequence[nn.Module],
    ) -> None:
        """Record a call, or log why that is not possible."""
        try:
            with _running():
                entry.recording = record(self.recorder, function, inputs, modules)
            entry.state = ModuleState(modules)
        except Exception as error:  # the same call has run without an error
            entry.is_refused = True
            first_line = str(error).strip().partition("\n")[0]
            self._log_once(f"{type(error).__name__}: {first_line.rstrip('.')}")

    def _check_result(self, entry: _Entry, result: Any) -> None:
        """Refuse to record calls whose results have an unknown structure."""
        try:
            Structure.split(result)
        except TypeError as error:
            entry.is_refused = True
            self._log_once(str(error))

    def _log_once(self, reason: str) -> None:
        """Log why calls are not recorded."""
        if reason not in self._logged:
            self._logged.add(reason)
            logger.warning(
                "%s runs without a CUDA graph, because it cannot be recorded: %s. This costs only "
                "time; MODEL.FCOS.CUDA_GRAPHS 'none' avoids this message.",
                self.name,
                reason,
            )


def _run(function: Function, inputs: Sequence[Tensor]) -> Any:
    """Call a function without its recording."""
    with _running():
        return function(*inputs)


def _read_context(inputs: Sequence[Tensor]) -> Hashable:
    """Return what a recording depends on, except for its modules and settings."""
    device_type = inputs[0].device.type
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type),
        torch.are_deterministic_algorithms_enabled(),
        *_read_tf32_flags(),
        *((x.shape, x.stride(), x.dtype, x.device, x.requires_grad) for x in inputs),
    )


def _read_tf32_flags() -> Iterator[bool]:
    """Yield whether kernels may use TF32."""
    # PyTorch raises an error if its old and its new flags were both used.
    with suppress(RuntimeError):
        yield torch.backends.cudnn.allow_tf32
        yield torch.backends.cuda.matmul.allow_tf32


@contextmanager
def _running() -> Iterator[None]:
    """Mark that a function of a cache is running."""
    token = _is_running.set(True)
    try:
        yield
    finally:
        _is_running.reset(token)
