"""Tracing of a model with torch.export, for images of any size or of a fixed size."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.export import ExportedProgram
from torch.fx.experimental import _config as shape_config
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from ..errors import InputError

__all__ = ["AXES", "SMALLEST_SIZE", "trace"]

SMALLEST_SIZE = 64  # of images, if any size is accepted
AXES = {0: "batch", 2: "height", 3: "width"}  # of the images, that can have any size
# What torch.export raises for code that it cannot trace; other exceptions are those of the code.
_TRACING_ERRORS = (TorchDynamoException, GuardOnDataDependentSymNode)
# The attributes of a graph's nodes that have paths of this machine.
_LOCAL_METADATA = ("stack_trace", "from_node", "source_fn_stack")


def trace(
    model: nn.Module,
    input_shape: Sequence[int | None],
    dtype: torch.dtype,
    device: torch.device,
    coarsest_stride: int,
    largest_size: int | None = None,
) -> ExportedProgram:
    """
    Trace a model that takes one batch of images.

    Args:
        model (nn.Module): The model, in evaluation mode.
        input_shape (Sequence[int | None]): Batch size, channels, height and width of the images.
            None accepts batches of any size, and heights and widths from ``SMALLEST_SIZE`` on.
        dtype (torch.dtype): Type of the images.
        device (torch.device): Device of the model.
        coarsest_stride (int): Stride of the coarsest level.
        largest_size (int | None): Largest height and width, if there is one.

    Raises:
        InputError: If the code of the model does not allow it.
    """
    shape = _example_shape(input_shape, coarsest_stride, largest_size)
    images = torch.zeros(shape, dtype=dtype, device=device)
    dynamic = {
        dim: torch.export.Dim(name, min=1)
        if name == "batch"
        else torch.export.Dim(name, min=SMALLEST_SIZE, max=largest_size)
        for dim, name in AXES.items()
        if input_shape[dim] is None
    }
    try:
        with torch.no_grad(), _export_settings():
            # strict=True, the default of PyTorch 2.6, accepts less code.
            program = torch.export.export(model, (images,), dynamic_shapes=(dynamic,), strict=False)
    except _TRACING_ERRORS as error:
        raise InputError(_describe_failure(error, bool(dynamic))) from error
    _clean(program)
    return program


def _example_shape(
    input_shape: Sequence[int | None], coarsest_stride: int, largest_size: int | None
) -> list[int]:
    """
    Return the shape of the images that are traced.

    torch.export takes sizes of 1 for constants. So there are two images, and the coarsest map has
    more than one cell. All sizes are different, because equal ones are taken for the same.
    """
    _, channels, *_ = input_shape
    assert channels is not None
    height, width = coarsest_stride + 32, coarsest_stride + 64
    if largest_size is not None:
        height, width = min(height, largest_size - 1), min(width, largest_size - 2)
    defaults = (2, channels, height, width)
    return [
        default if size is None else size
        for default, size in zip(defaults, input_shape, strict=True)
    ]


@contextmanager
def _export_settings() -> Iterator[None]:
    """Set how torch.export treats sizes, and leave out a warning about torchvision's own code."""
    # Without the setting, it demands that the coarsest map has more than one cell, because the
    # memory format of a map with one cell is ambiguous.
    settings = {"backed_size_oblivious": True}
    with warnings.catch_warnings(), shape_config.patch(settings):  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", message="`create_unbacked_symint` is deprecated")
        yield


def _clean(program: ExportedProgram) -> None:
    """Remove what should not be in a file: stack traces, and needless guards."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for name in _LOCAL_METADATA:
                    node.meta.pop(name, None)
    # The guards that remain are about the memory formats of maps with one cell, see above. The
    # result does not depend on them, which ``checking`` tests with the smallest size.
    program._guards_code = []


def _describe_failure(error: Exception, is_dynamic: bool) -> str:
    """Return the message for a model that cannot be traced."""
    if is_dynamic:
        return (
            "torch.export cannot export this model for images of any size, because what its code "
            "does depends on the size (as in networks with windows, such as Swin). Fix the size: "
            "add --image-size HEIGHT WIDTH, and if this is not enough, --batch-size 1."
        )
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"torch.export cannot export this model: {reason}"
