"""A stand-in for CUDA graphs on a CPU, and the recorders that the tests run with."""

import copy

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fcos_d2.modeling.cuda_graphs import CudaRecorder

_READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "_unique2", "equal")


class _Tape(TorchDispatchMode):
    """A mode that keeps all operations with their tensors."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name.removeprefix("aten::") in _READS:
            raise RuntimeError(f"{func} reads a value on the host")
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result


class CpuRecorder(CudaRecorder):
    """
    Records calls on a CPU: a launch repeats the operations, on the same tensors.

    As with CUDA graphs, no Python code of the function runs again, all results of a recording are
    in the same memory at every launch, and recording itself changes no buffer of the modules and no
    state of random numbers.
    """

    def __init__(self, *modules):
        super().__init__()
        self.modules = modules
        self.num_captures = self.num_launches = 0

    def __reduce__(self):
        return CpuRecorder, ()

    def can_record(self, device):
        return device.type == "cpu" and not self.is_broken

    def buffer(self, *args):
        known = len(self._buffers)
        buffer = super().buffer(*args)
        # Recording runs the function here, which cannot use arbitrary class indices.
        return buffer if len(self._buffers) == known else buffer.zero_()

    def capture(self, function, device):
        self.num_captures += 1
        buffers = [x for module in self.modules for x in module.buffers()]
        saved = copy.deepcopy(buffers)
        try:
            with torch.random.fork_rng(devices=[]), _Tape() as tape:
                result = function()
        except BaseException:
            self.is_broken = True
            raise
        for x, old in zip(buffers, saved, strict=True):
            x.data.copy_(old)  # without a trace: the backward pass is recorded after this
        fill_with_nan(result)  # no launch, no values

        def launch():
            self.num_launches += 1
            # The operations of the tape are those below autograd and autocast.
            autocast = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
            below_autocast = torch._C._ExcludeDispatchKeyGuard(autocast)
            with torch._C._AutoDispatchBelowAutograd(), below_autocast:
                for func, args, kwargs, recorded in tape.operations:
                    repeated = func(*args, **kwargs)
                    for old, new in zip(tensors_of(recorded), tensors_of(repeated), strict=True):
                        if old.numel() and old.data_ptr() != new.data_ptr():
                            (old if old.is_inference() else old.data).copy_(new)

        return launch, result


def fill_with_nan(result):
    for x in tensors_of(result):
        if x.is_floating_point():
            (x if x.is_inference() else x.data).fill_(float("nan"))


def tensors_of(value):
    return [x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def make_recorder(device, *modules):
    return CpuRecorder(*modules) if device == "cpu" else CudaRecorder()
