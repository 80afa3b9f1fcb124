"""What a recording of modules depends on, and what prevents one."""

from collections.abc import Hashable, Iterable, Sequence

from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

__all__ = ["find_obstacle", "list_modules", "read_modes", "read_tensors"]

_HOOKS = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
_SYNC_NORMS = (nn.SyncBatchNorm, NaiveSyncBatchNorm)


def list_modules(outer_modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Return modules with all of their submodules."""
    return [module for outer in outer_modules for module in outer.modules()]


def find_obstacle(modules: Sequence[nn.Module]) -> str | None:
    """
    Return why a call of modules cannot be recorded, or None.

    Hooks are Python code, which does not run when kernels are launched from a recording. SyncBN
    communicates with other processes.

    Args:
        modules (Sequence[nn.Module]): The result of ``list_modules``.
    """
    if any(getattr(torch_module, f"_global_{name}") for name in _HOOKS):
        return "a hook is registered for all modules"
    for module in modules:
        # This runs in every call, so it is written for speed.
        values = module.__dict__
        if (
            values["_forward_hooks"]
            or values["_forward_pre_hooks"]
            or values["_backward_hooks"]
            or values["_backward_pre_hooks"]
        ):
            return f"a hook is registered for a {type(module).__name__}"
    if comm.get_world_size() > 1 and any(
        module.training and isinstance(module, _SYNC_NORMS) for module in modules
    ):
        return "SyncBN communicates with other processes"
    return None


def read_modes(modules: Sequence[nn.Module]) -> Hashable:
    """Return the modes (training or evaluation) of the modules of ``list_modules``."""
    return tuple(module.training for module in modules)


def read_tensors(modules: Sequence[nn.Module]) -> Hashable:
    """
    Return the addresses and types of parameters and buffers.

    A recording uses the addresses that it was made with. Values may change.

    Args:
        modules (Sequence[nn.Module]): The result of ``list_modules``.
    """
    tensors: list[Tensor | None] = []
    for module in modules:
        values = module.__dict__
        tensors += values["_parameters"].values()
        tensors += values["_buffers"].values()
    return tuple((x.data_ptr(), x.dtype, x.requires_grad) for x in tensors if x is not None)
