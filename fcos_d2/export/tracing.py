"""Tracing of a model with torch.export, for images of any size or of a fixed size."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx.experimental import _config as shape_config

from ..errors import InputError

__all__ = ["SMALLEST_SIZE", "trace"]

SMALLEST_SIZE = 64  # of images, if any size is accepted
_DIMENSIONS = {0: "batch", 2: "height", 3: "width"}
# The attributes of a graph's nodes that have paths of this machine.
_LOCAL_METADATA = ("stack_trace", "from_node", "source_fn_stack")


def trace(
    model: nn.Module,
    input_shape: Sequence[int | None],
    dtype: torch.dtype,
    device: torch.device,
    coarsest_stride: int,
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

    Raises:
        InputError: If the code of the model does not allow it.
    """
    images = torch.zeros(_example_shape(input_shape, coarsest_stride), dtype=dtype, device=device)
    smallest = {0: 1, 2: SMALLEST_SIZE, 3: SMALLEST_SIZE}
    dynamic = {
        dim: torch.export.Dim(name, min=smallest[dim])
        for dim, name in _DIMENSIONS.items()
        if input_shape[dim] is None
    }
    try:
        with torch.no_grad(), _export_settings():
            program = torch.export.export(model, (images,), dynamic_shapes=(dynamic,))
    except (torch._dynamo.exc.TorchDynamoException, torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode) as error:
        raise InputError(_describe_failure(error, bool(dynamic))) from error
    _clean(program)
    return program


def _example_shape(input_shape: Sequence[int | None], coarsest_stride: int) -> tuple[int, ...]:
    """
    Return the shape of the images that are traced.

    torch.export takes sizes of 1 for constants. So there are two images, and the coarsest map has
    more than one cell. All sizes are different, because equal ones are taken for the same.
    """
    defaults = (2, input_shape[1], coarsest_stride + 32, coarsest_stride + 64)
    return tuple(
        default if size is None else size
        for default, size in zip(defaults, input_shape, strict=True)
    )


@contextmanager
def _export_settings() -> Iterator[None]:
    """Set how torch.export treats sizes, and leave out a warning about torchvision's own code."""
    with warnings.catch_warnings(), shape_config.patch(backed_size_oblivious=True):
        # Without the setting, it demands that the coarsest map has more than one cell, because the
        # memory format of a map with one cell is ambiguous.
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
    if getattr(program, "_guards_code", None):
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
