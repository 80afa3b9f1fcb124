"""What a call asks PyTorch for: it does not depend on the machine, and a GPU has to launch it."""

from typing import Any

from measuring import Work
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["count_operations", "count_values_read"]

# They compute nothing: other sights of a tensor, and memory as it comes.
_NO_WORK = (
    "aten::alias",
    "aten::detach",
    "aten::lift_fresh",
    "aten::_unsafe_view",
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::new_empty",
    "aten::new_empty_strided",
)
# The host goes on with numbers, or with shapes, that the device has yet to compute.
_VALUES = ("aten::_local_scalar_dense", "aten::nonzero")


class _CountOperations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and func._schema.name not in _NO_WORK
        return func(*args, **(kwargs or {}))


def count_operations(work: Work) -> int:
    """Those that compute or fill tensors, on the way back too: each is a kernel at least."""
    argument = work.prepare()
    with _CountOperations() as mode:
        work.run(argument)
    return mode.count


def count_values_read(work: Work) -> int:
    """
    How often at least the host would have to wait for a GPU, by what runs beneath autograd too,
    which takes other ways where a dispatch mode looks on.
    """
    argument = work.prepare()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work.run(argument)
    return sum(x.count for x in profiler.key_averages() if x.key in _VALUES)
