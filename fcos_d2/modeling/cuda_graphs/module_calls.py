"""CUDA graphs of single modules, for models of any meta-architecture."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .graphed import Graphed
from .recorder import CudaRecorder
from .recording import Recorder

__all__ = ["graph_calls"]


def graph_calls(module: nn.Module, *, trains: bool, recorder: Recorder | None = None) -> None:
    """
    Launch the calls of a module as CUDA graphs, without changing the names in its state dict.

    Args:
        module (nn.Module): A module that is called with one tensor or one list of tensors. Calls
            with other arguments run normally.
        trains (bool): Whether calls with gradients are recorded too.
        recorder (Recorder | None): Records the calls. No other module may use it, because the
            calls of several modules alternate before their backward passes run.
    """
    # nn.Module.__call__ calls this attribute if it is set, as torch.compile does. Copies and
    # pickles of modules do not have it.
    call = module._compiled_call_impl or module._call_impl
    module._compiled_call_impl = _GraphedCall(module, call, trains, recorder or CudaRecorder())


class _GraphedCall:
    """The calls of a module, with one graphed function for each form of the argument."""

    def __init__(
        self,
        module: nn.Module,
        call: Callable[..., Any],
        trains: bool,
        recorder: Recorder,
    ) -> None:
        name = type(module).__name__
        self.call = call
        self.trains = trains

        def call_with_list(*tensors: Tensor) -> Any:
            """Call the module with a list."""
            return call(list(tensors))

        self.of_tensor = Graphed(name, call, lambda: [module], recorder)
        self.of_list = Graphed(name, call_with_list, lambda: [module], recorder)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        if kwargs or len(args) != 1 or (torch.is_grad_enabled() and not self.trains):
            return self.call(*args, **kwargs)
        if isinstance(args[0], Tensor):
            return self.of_tensor(args[0])
        if _is_list_of_tensors(args[0]):
            return self.of_list(*args[0])
        return self.call(*args)


def _is_list_of_tensors(value: object) -> bool:
    """Return whether a value is a list with nothing but tensors, and not empty."""
    return isinstance(value, list) and bool(value) and all(isinstance(x, Tensor) for x in value)
