"""The hooks of modules, which fused or recorded calls would leave out."""

from torch import nn
from torch.nn.modules import module as torch_module

__all__ = ["has_global_hooks", "has_hooks"]


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module has hooks that are called when it runs."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def has_global_hooks() -> bool:
    """Return whether there are hooks that are called when any module runs."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )
