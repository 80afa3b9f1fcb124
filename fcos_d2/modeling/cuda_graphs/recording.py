"""A recorded call: forward pass, and backward pass if gradients are needed."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from .module_state import list_trained_parameters, replaced_parameters
from .recorder import CudaRecorder

__all__ = ["Function", "Recording", "Structure", "launch", "record"]

# What can be recorded: a function of tensors. Its result may be any structure of tuples, lists and
# dicts with tensors and constants, which may depend only on the shapes of the arguments.
Function = Callable[..., Any]
_TENSOR = object()
_CONSTANTS = (str, int, float, bool, type(None), torch.dtype, torch.device)
_ALIGNMENT = 128  # elements; GPUs read aligned vectors faster


class Structure(NamedTuple):
    """
    A result without its tensors.

    Attributes:
        spec (TreeSpec): The tuples, lists and dicts.
        values (list): Their values, in which ``_TENSOR`` stands for a tensor.
    """

    spec: pytree.TreeSpec
    values: list[Any]

    @classmethod
    def split(cls, result: Any) -> tuple[list[Tensor], "Structure"]:
        """
        Split a result into its tensors and its structure.

        Raises:
            TypeError: If it contains objects that may contain tensors.
        """
        values, spec = pytree.tree_flatten(result)
        for value in values:
            if not isinstance(value, (Tensor, *_CONSTANTS)):
                raise TypeError(f"its result contains a {type(value).__name__}")
        tensors = [x for x in values if isinstance(x, Tensor)]
        return tensors, cls(spec, [_TENSOR if isinstance(x, Tensor) else x for x in values])

    def join(self, tensors: Sequence[Tensor]) -> Any:
        """Make a result with other tensors."""
        remaining = iter(tensors)
        values = [next(remaining) if x is _TENSOR else x for x in self.values]
        return pytree.tree_unflatten(values, self.spec)


class Recording(NamedTuple):
    """
    A recorded call, with the buffers that it reads and writes.

    Attributes:
        inputs (list[Tensor]): Buffers that the inputs are copied to.
        outputs (list[Tensor]): Buffers that the forward pass writes.
        structure (Structure): How the outputs are arranged in the result of the function.
        launch (Callable): Launches the forward pass.
        backward (RecordedBackward | None): None if no gradients are needed.
    """

    inputs: list[Tensor]
    outputs: list[Tensor]
    structure: Structure
    launch: Callable[[], None]
    backward: "RecordedBackward | None"


class RecordedBackward(NamedTuple):
    """
    The backward pass of a recorded call.

    Attributes:
        differentiable (list[int]): Indices of the outputs that have gradients.
        grad_outputs (list[Tensor]): Buffers that the gradients of these outputs are copied to.
        parameters (list[nn.Parameter]): The parameters that get gradients.
        grads (GradientBuffers): Buffers that the backward pass writes: the gradients of those
            inputs that need one, and of the parameters.
        launch (Callable): Launches the backward pass.
    """

    differentiable: list[int]
    grad_outputs: list[Tensor]
    parameters: list[nn.Parameter]
    grads: "GradientBuffers"
    launch: Callable[[], None]


class GradientBuffers:
    """
    The gradients of tensors, next to each other in one buffer, so that one copy is enough for all.

    Args:
        recorder (CudaRecorder): Provides the buffer of each data type.
        sources (list[Tensor]): The tensors.
    """

    def __init__(self, recorder: CudaRecorder, sources: Sequence[Tensor]) -> None:
        self._places = []  # (data type, shape, strides, start) of each gradient
        sizes: dict[torch.dtype, int] = {}
        for x in sources:
            start = sizes.get(x.dtype, 0)
            self._places.append((x.dtype, x.shape, _strides_without_gaps(x), start))
            sizes[x.dtype] = start + -(-x.numel() // _ALIGNMENT) * _ALIGNMENT
        self._buffers = {
            dtype: recorder.buffer("grads", 0, size, dtype, sources[0].device)
            for dtype, size in sizes.items()
        }
        self._has_gradient = [True] * len(sources)

    def write(self, grads: Sequence[Tensor | None]) -> None:
        """Copy gradients into the buffers; None means that there is no gradient."""
        self._has_gradient = [x is not None for x in grads]
        targets = [x for x in self._views(self._buffers) if x is not None]
        if targets:
            torch._foreach_copy_(targets, [x for x in grads if x is not None])

    def copies(self) -> list[Tensor | None]:
        """Return copies of the gradients, which later backward passes do not change."""
        return self._views({dtype: x.clone() for dtype, x in self._buffers.items()})

    def _views(self, buffers: dict[torch.dtype, Tensor]) -> list[Tensor | None]:
        """Return the gradients as parts of buffers."""
        return [
            buffers[dtype].as_strided(shape, strides, start) if exists else None
            for exists, (dtype, shape, strides, start) in zip(
                self._has_gradient, self._places, strict=True
            )
        ]


def record(
    recorder: CudaRecorder,
    function: Function,
    inputs: Sequence[Tensor],
    modules: Sequence[nn.Module],
) -> Recording:
    """
    Record a call of a function and, if gradients are enabled, its backward pass.

    Args:
        recorder (CudaRecorder): Records the kernels.
        function (Callable): See ``Function``. It has run before with tensors of these shapes.
        inputs (list[Tensor]): Inputs, of which only the shapes, types and strides matter.
        modules (Sequence[nn.Module]): All modules that it uses, with their submodules.

    Raises:
        Exception: If the call cannot be recorded.
    """
    device = inputs[0].device
    buffers = [
        _buffer_like(recorder, "input", index, x).requires_grad_(x.requires_grad)
        for index, x in enumerate(inputs)
    ]
    # The gradients of the parameters themselves would be computed on the stream of earlier backward
    # passes, which is not the one that records, and their hooks would run while recording.
    parameters = list_trained_parameters(modules)
    stand_ins = {x: nn.Parameter(x.detach()) for x in parameters}
    last_outputs: list[Tensor] = []  # of the last forward pass, with their autograd graph

    def run_forward() -> tuple[list[Tensor], Structure, list[int]]:
        """Run the function, and copy its outputs to buffers."""
        # Weights that autocast converted before must not become part of the recording, and those
        # that it converts here have no values before the first launch.
        torch.clear_autocast_cache()
        with replaced_parameters(modules, stand_ins):
            outputs, structure = Structure.split(function(*buffers))
        torch.clear_autocast_cache()
        results = [_buffer_like(recorder, "output", i, x) for i, x in enumerate(outputs)]
        with torch.no_grad():
            for result, output in zip(results, outputs, strict=True):
                result.copy_(output)
        differentiable = [i for i, x in enumerate(outputs) if x.requires_grad]
        last_outputs[:] = [outputs[i] for i in differentiable]
        return results, structure, differentiable

    launch_forward, (outputs, structure, differentiable) = recorder.capture(run_forward, device)
    if not differentiable:
        return Recording(buffers, outputs, structure, launch_forward, None)

    sources = [*(x for x in buffers if x.requires_grad), *stand_ins.values()]
    _check_leaves(last_outputs, sources)
    grad_outputs = [_buffer_like(recorder, "grad_output", i, outputs[i]) for i in differentiable]
    grads = GradientBuffers(recorder, sources)

    def run_backward() -> None:
        """Compute the gradients of the last forward pass, and copy them to buffers."""
        with torch.autocast(device.type, enabled=False):  # as where ``backward`` is called
            computed = torch.autograd.grad(last_outputs, sources, grad_outputs, allow_unused=True)
        last_outputs.clear()  # the memory of the activations is free from here
        grads.write(computed)

    launch_backward, _ = recorder.capture(run_backward, device)
    backward = RecordedBackward(differentiable, grad_outputs, parameters, grads, launch_backward)
    return Recording(buffers, outputs, structure, launch_forward, backward)


def _check_leaves(outputs: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Check that outputs get their gradients only from the sources."""
    known = {id(x) for x in sources}
    nodes, seen = [x.grad_fn for x in outputs], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable") and id(node.variable) not in known:
            raise RuntimeError("it uses a parameter that is not an attribute of one of its modules")
        nodes += [x for x, _ in node.next_functions]


def _buffer_like(recorder: CudaRecorder, name: str, index: int, x: Tensor) -> Tensor:
    """Return a buffer with the shape of a tensor, and its strides if it has no gaps."""
    buffer = recorder.buffer(name, index, x.numel(), x.dtype, x.device)
    return buffer.as_strided(x.shape, _strides_without_gaps(x)).detach()


def _strides_without_gaps(x: Tensor) -> tuple[int, ...]:
    """Return the strides of a copy of a tensor."""
    return torch.empty_like(x, device="meta").stride()


def launch(recorder: CudaRecorder, recording: Recording, inputs: Sequence[Tensor]) -> Any:
    """
    Run a recorded call on new values.

    Args:
        recorder (CudaRecorder): The recorder of the recording.
        recording (Recording): The recording.
        inputs (list[Tensor]): Inputs of the shapes, types and strides of the recording.

    Returns:
        Any: The result of the function; later calls do not change its tensors.
    """
    backward = recording.backward
    if backward is None:
        return recording.structure.join(_launch_forward(recording, inputs))
    outputs = _Launch.apply(recorder, recording, len(inputs), *inputs, *backward.parameters)
    return recording.structure.join(outputs)


def _launch_forward(recording: Recording, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Copy the inputs, launch the forward pass, and copy the outputs."""
    with torch.no_grad():
        for buffer, x in zip(recording.inputs, inputs, strict=True):
            buffer.copy_(x, non_blocking=True)
        recording.launch()
        return [x.clone() for x in recording.outputs]


class _Launch(torch.autograd.Function):
    """The launch of a recorded forward pass, whose gradients come from the recorded backward."""

    @staticmethod
    def forward(
        ctx: Any, recorder: CudaRecorder, recording: Recording, num_inputs: int, *sources: Tensor
    ) -> tuple[Tensor, ...]:
        """Launch the forward pass."""
        backward = recording.backward
        assert backward is not None
        outputs = _launch_forward(recording, sources[:num_inputs])
        has_gradient = set(backward.differentiable)
        ctx.mark_non_differentiable(*(x for i, x in enumerate(outputs) if i not in has_gradient))
        ctx.set_materialize_grads(False)
        ctx.recorder, ctx.backward = recorder, backward
        ctx.needs_gradient = [x.requires_grad for x in sources[:num_inputs]]
        ctx.pending = recorder.begin_forward()
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        """Launch the backward pass."""
        backward: RecordedBackward = ctx.backward
        with ctx.recorder.lock:
            ctx.recorder.end_forward(ctx.pending)
            for index, buffer in zip(backward.differentiable, backward.grad_outputs, strict=True):
                grad = grad_outputs[index]
                if grad is None:
                    buffer.zero_()
                else:
                    buffer.copy_(grad)
            backward.launch()
            # The next backward pass overwrites the buffers, but gradients may be kept or added up.
            grads = iter(backward.grads.copies())
        input_grads = [next(grads) if needs else None for needs in ctx.needs_gradient]
        return None, None, None, *input_grads, *grads
