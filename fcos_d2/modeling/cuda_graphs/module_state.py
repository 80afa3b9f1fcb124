"""What a recording of modules depends on, and what prevents one."""

import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import is_

from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import Tensor, nn

from ..module_hooks import has_global_hooks, has_hooks

__all__ = [
    "ModuleState",
    "find_obstacle",
    "list_modules",
    "list_trained_parameters",
    "replaced_parameters",
]

_SYNC_NORMS = (nn.SyncBatchNorm, NaiveSyncBatchNorm)


def list_modules(outer_modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Return modules with all of their submodules."""
    return [module for outer in outer_modules for module in outer.modules()]


def find_obstacle(modules: Sequence[nn.Module]) -> str | None:
    """
    Return why a call of modules cannot be recorded, or None.

    Hooks are Python code, which does not run when a recording is launched. SyncBN communicates with
    other processes.

    Args:
        modules (Sequence[nn.Module]): The result of ``list_modules``.
    """
    if has_global_hooks():
        return "a hook is registered for all modules"
    for module in modules:
        if has_hooks(module):
            return f"a hook is registered for a {type(module).__name__}"
    if comm.get_world_size() > 1 and any(
        module.training and isinstance(module, _SYNC_NORMS) for module in modules
    ):
        return "SyncBN communicates with other processes"
    return None


class ModuleState:
    """
    The modules and tensors that a recording was made with.

    A recording uses the addresses of parameters and buffers. Values may change, but not the
    addresses, types and shapes.

    Args:
        modules (Sequence[nn.Module]): The result of ``list_modules``.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        # Not the modules, which would be kept alive as long as their recordings.
        self._modules = [weakref.ref(module) for module in modules]
        self._tensors = _list_tensors(modules)
        self._layout = _read_layout(self._tensors)

    def matches(self, modules: Sequence[nn.Module]) -> bool:
        """Return whether these are the same modules with the same tensors."""
        tensors = _list_tensors(modules)
        return (
            len(modules) == len(self._modules)
            and all(known() is module for known, module in zip(self._modules, modules, strict=True))
            and len(tensors) == len(self._tensors)
            and all(map(is_, tensors, self._tensors))
            and _read_layout(tensors) == self._layout
        )


def _list_tensors(modules: Sequence[nn.Module]) -> list[Tensor]:
    """Return the parameters and buffers of modules."""
    tensors: list[Tensor | None] = []
    for module in modules:
        values = module.__dict__
        tensors += values["_parameters"].values()
        tensors += values["_buffers"].values()
    return [x for x in tensors if x is not None]


def _read_layout(tensors: Sequence[Tensor]) -> Hashable:
    """Return the addresses, types and shapes of tensors."""
    return tuple((x.data_ptr(), x.dtype, x.shape, x.stride(), x.requires_grad) for x in tensors)


def list_trained_parameters(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """Return the parameters with gradients of ``list_modules``, each once."""
    return list(
        dict.fromkeys(x for m in modules for x in m.parameters(recurse=False) if x.requires_grad)
    )


@contextmanager
def replaced_parameters(
    modules: Sequence[nn.Module], replacements: Mapping[nn.Parameter, nn.Parameter]
) -> Iterator[None]:
    """
    Let modules use other parameters.

    Args:
        modules (Sequence[nn.Module]): The result of ``list_modules``.
        replacements (dict): The replacement of each parameter.
    """
    places = [
        (module._parameters, name, parameter)
        for module in modules
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter in replacements
    ]
    for parameters, name, parameter in places:
        parameters[name] = replacements[parameter]
    try:
        yield
    finally:
        for parameters, name, parameter in places:
            parameters[name] = parameter
