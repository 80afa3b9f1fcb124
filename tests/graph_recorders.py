"""A stand-in for CUDA graphs on a CPU, and the recorders that the tests run with."""

import copy

import pytest
import torch
from torch.utils import _pytree as pytree

from fcos_d2.modeling.cuda_graphs import CudaRecorder, graphed


class CpuRecorder(CudaRecorder):
    """
    Records calls on a CPU: a launch runs the function again and overwrites its results.

    As with CUDA graphs, all results of a recording are in the same memory at every launch, and
    recording itself changes no buffer of the modules and no state of random numbers.
    """

    def __init__(self, *modules):
        super().__init__()
        self.modules = modules
        self.num_captures = self.num_launches = 0

    def __reduce__(self):
        return CpuRecorder, ()

    def can_record(self, device):
        return device.type == "cpu"

    def buffer(self, *args):
        known = len(self._buffers)
        buffer = super().buffer(*args)
        # Here recording runs the function, which could not use arbitrary class indices.
        return buffer if len(self._buffers) == known else buffer.zero_()

    def capture(self, function):
        self.num_captures += 1
        buffers = [x for module in self.modules for x in module.buffers()]
        saved = copy.deepcopy(buffers)
        with torch.random.fork_rng(devices=[]):
            result = function()
        for x, old in zip(buffers, saved, strict=True):
            x.data.copy_(old)  # without a trace: the backward pass is recorded after this

        needs_grad = torch.is_grad_enabled()  # a launch is inside of an autograd function

        def launch():
            self.num_launches += 1
            with torch.set_grad_enabled(needs_grad), graphed._running():
                results = tensors_of(function())
            for old, new in zip(tensors_of(result), results, strict=True):
                if old.data_ptr() != new.data_ptr():
                    with torch.no_grad():
                        old.copy_(new)

        return launch, result


def tensors_of(value):
    return [x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def make_recorder(device, *modules):
    return CpuRecorder(*modules) if device == "cpu" else CudaRecorder()
