"""CUDA graphs of single modules, for models of any meta-architecture."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .graph_cache import GraphCache
from .recorder import CudaRecorder

__all__ = ["graph_calls"]


def graph_calls(module: nn.Module, *, trains: bool, recorder: CudaRecorder | None = None) -> None:
    """
    Launch the calls of a module as CUDA graphs, without changing the names in its state dict.

    Args:
        module (nn.Module): A module that is called with one tensor or one list of tensors. Calls
            with other arguments run normally.
        trains (bool): Whether calls with gradients are recorded too.
        recorder (CudaRecorder | None): Records the calls. No other module may use it, because the
            calls of several modules alternate before their backward passes run.
    """
    # nn.Module.__call__ calls this attribute if it is set, as torch.compile does. Copies and
    # pickles of modules do not have it.
    module._compiled_call_impl = _GraphedCall(
        module, module._compiled_call_impl, trains, recorder or CudaRecorder()
    )


class _GraphedCall:
    """
    The calls of a module, through the cache of its recordings.

    Args:
        module (nn.Module): The module, which is not kept alive.
        compiled (Callable | None): Its compiled call, if there is one.
        trains (bool): See ``graph_calls``.
        recorder (CudaRecorder): See ``graph_calls``.
    """

    def __init__(
        self,
        module: nn.Module,
        compiled: Callable[..., Any] | None,
        trains: bool,
        recorder: CudaRecorder,
    ) -> None:
        self.module = weakref.ref(module)
        self.compiled = compiled
        self.trains = trains
        self.cache = GraphCache(type(module).__name__, recorder)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        module = self.module()
        assert module is not None  # it is calling this
        call = self.compiled or module._call_impl
        if kwargs or len(args) != 1 or (torch.is_grad_enabled() and not self.trains):
            return call(*args, **kwargs)
        (argument,) = args
        if isinstance(argument, Tensor):
            return self.cache.call(call, [argument], [module])
        if _is_list_of_tensors(argument):
            is_list = "list"  # a list of one tensor has its own recordings
            return self.cache.call(lambda *x: call(list(x)), argument, [module], is_list)
        return call(argument)


def _is_list_of_tensors(value: object) -> bool:
    """Return whether a value is a list with nothing but tensors, and not empty."""
    return isinstance(value, list) and bool(value) and all(isinstance(x, Tensor) for x in value)
