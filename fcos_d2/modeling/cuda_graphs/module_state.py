"""What a recording of modules depends on, and what prevents one."""

from collections.abc import Hashable, Sequence

from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import nn
from torch.nn.modules import module as torch_module

__all__ = ["find_obstacle", "read_state"]

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


def find_obstacle(modules: Sequence[nn.Module]) -> str | None:
    """
    Return why modules cannot be recorded, or None.

    Hooks are Python code, which does not run when kernels are launched from a recording. SyncBN
    sends statistics to other processes.

    Args:
        modules (Sequence[nn.Module]): The modules, with their submodules.
    """
    if any(getattr(torch_module, name) for name in _GLOBAL_HOOKS):
        return "a hook is registered for all modules"
    for outer in modules:
        for name, module in outer.named_modules():
            hooks = module.__dict__
            if any(hooks[x] for x in _HOOKS):
                return f"{name or type(module).__name__} has a hook"
            if (
                module.training
                and isinstance(module, (nn.SyncBatchNorm, NaiveSyncBatchNorm))
                and comm.get_world_size() > 1
            ):
                return f"{name} synchronizes its statistics with other processes"
    return None


def read_state(modules: Sequence[nn.Module]) -> Hashable:
    """
    Return modes, and addresses and types of tensors: all that must be as it was when recorded.

    Args:
        modules (Sequence[nn.Module]): The modules, with their submodules.
    """
    return tuple(
        (module.training, *((x.data_ptr(), x.dtype, x.requires_grad, x.shape) for x in tensors))
        for outer in modules
        for module in outer.modules()
        for tensors in (
            [x for x in (*module._parameters.values(), *module._buffers.values()) if x is not None],
        )
    )
