"""Tracing of a model with torch.export, for images of any size or of a fixed size."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.export import ExportedProgram
from torch.fx.experimental import _config as shape_config
from torch.fx.experimental.symbolic_shapes import (
    ConstraintViolationError,
    GuardOnDataDependentSymNode,
)

from ..errors import InputError
from .running import SMALLEST_SIZE
from .suppression import without_nms_warning

__all__ = ["AXES", "make_example", "trace"]

AXES = {0: "batch", 2: "height", 3: "width"}  # of the images, that can have any size
# What torch.export raises for code that it cannot trace; other exceptions are those of the code.
_TRACING_ERRORS = (TorchDynamoException, ConstraintViolationError, GuardOnDataDependentSymNode)
# The attributes of a graph's nodes that have paths of this machine.
_LOCAL_METADATA = ("stack_trace", "from_node", "source_fn_stack")


def make_example(
    input_shape: Sequence[int | None],
    dtype: torch.dtype,
    device: torch.device,
    coarsest_stride: int,
    largest_size: int | None = None,
) -> Tensor:
    """
    Make images for tracing.

    torch.export takes sizes of 1 for constants. So there are two images, and the coarsest map has
    more than one cell. All sizes are different, because equal ones are taken for the same.

    Args:
        input_shape (Sequence[int | None]): See ``trace``.
        dtype (torch.dtype): Type of the images.
        device (torch.device): Device of the model.
        coarsest_stride (int): Stride of the coarsest level.
        largest_size (int | None): Largest height and width, if there is one.

    Returns:
        Tensor: (N, C, H, W) images.
    """
    height = max(coarsest_stride, 64) + 32
    width = height + 32
    if largest_size is not None:
        height, width = min(height, largest_size - 1), min(width, largest_size - 2)
    num_images, channels, *size = input_shape
    assert channels is not None
    shape = [num_images or 2, channels, size[0] or height, size[1] or width]
    return torch.zeros(shape, dtype=dtype, device=device)


def trace(
    model: nn.Module,
    images: Tensor,
    input_shape: Sequence[int | None],
    largest_size: int | None = None,
) -> ExportedProgram:
    """
    Trace a model that takes one batch of images.

    Args:
        model (nn.Module): The model, in evaluation mode.
        images (Tensor): The result of ``make_example``.
        input_shape (Sequence[int | None]): Batch size, channels, height and width of the images.
            None accepts batches of any size, and heights and widths from ``SMALLEST_SIZE`` on.
        largest_size (int | None): Largest height and width, if there is one.

    Raises:
        InputError: If the code of the model does not allow it.
    """
    dynamic = {
        dim: torch.export.Dim(name, min=1)
        if name == "batch"
        else torch.export.Dim(name, min=SMALLEST_SIZE, max=largest_size)
        for dim, name in AXES.items()
        if input_shape[dim] is None
    }
    # Without the setting, torch.export demands that the coarsest map has more than one cell,
    # because the memory format of a map with one cell is ambiguous.
    setting = shape_config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    try:
        with torch.no_grad(), without_nms_warning(), setting:
            program = torch.export.export(model, (images,), dynamic_shapes=(dynamic,))
    except _TRACING_ERRORS as error:
        raise InputError(_describe_failure(error, input_shape)) from error
    _clean(program)
    return program


def _clean(program: ExportedProgram) -> None:
    """Remove what should not be in a file: stack traces, and unnecessary guards."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for name in _LOCAL_METADATA:
                    node.meta.pop(name, None)
    # The guards that remain are about the memory formats of maps with one cell, see above. The
    # result does not depend on them, which ``checking`` tests with the smallest size.
    program._guards_code = []


def _describe_failure(error: Exception, input_shape: Sequence[int | None]) -> str:
    """Return the message for a model that cannot be traced."""
    batch_size, _, height, _ = input_shape
    if height is None:
        advice = (
            " for images of any size. Probably its code depends on the size, as in networks with "
            "windows, such as Swin. Fix the size: image_size (--image-size HEIGHT WIDTH)."
        )
    elif batch_size is None:
        advice = " for batches of any size. Fix the size: batch_size (--batch-size 1)."
    else:
        advice = "."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next((line for line in lines if line.startswith("- Not all")), (lines or [""])[0])
    return f"torch.export cannot export this model{advice} Its reason: {reason[:300]}"
