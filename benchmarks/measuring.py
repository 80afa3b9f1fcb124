"""The time, the memory and the operations of a call, and the machine that it runs on."""

import gc
import json
import os
import platform
import random
import re
import tempfile
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import detectron2
import psutil
import torch
import torchvision
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

# A GPU needs some calls until its allocator has its blocks and cuDNN its algorithms.
_WARM_UPS = {"cpu": 1, "cuda": 3}
_SHORT_ROUND = 1000  # milliseconds; shorter rounds are repeated more often
_MORE_ROUNDS = 3  # times as many
# Operations that compute nothing: views of a tensor, and memory that is not filled.
_NO_WORK = re.compile(
    r"aten::(alias|detach|lift_fresh|_unsafe_view|(new_)?empty|(new_)?empty_strided|empty_like)"
)
# After these the host continues with a number or a shape that the device has yet to compute.
_WAITS = ("aten::_local_scalar_dense", "aten::nonzero")


class Work(NamedTuple):
    """A call to measure: ``run`` with what ``prepare``, which is not measured, returns before."""

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


def time_interleaved(works: dict[str, Work], repeats: int, device: str) -> dict[str, list[float]]:
    """
    Time calls in turn, in an order that is shuffled in every round; return milliseconds.

    So a disturbance by other processes affects all alike. Where a round takes less than a second
    there are three times as many rounds, because a disturbance is a large part of a short round.
    """
    warm_ups = [[_time(work, device) for _ in range(_WARM_UPS[device])] for work in works.values()]
    if sum(map(min, warm_ups)) < _SHORT_ROUND:
        repeats *= _MORE_ROUNDS
    milliseconds: dict[str, list[float]] = {name: [] for name in works}
    shuffler, order = random.Random(0), list(works)
    gc.freeze()  # what exists already is not searched for garbage
    gc.disable()
    try:
        for _ in range(repeats):
            gc.collect()
            shuffler.shuffle(order)
            for name in order:
                milliseconds[name].append(_time(works[name], device))
    finally:
        gc.enable()
        gc.unfreeze()
    return milliseconds


def _time(work: Work, device: str) -> float:
    """Measure the milliseconds of one call."""
    argument = work.prepare()
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    work.run(argument)
    synchronize()
    return (time.perf_counter() - start) * 1000


def sum_kernels(work: Work, calls: int = 4) -> float:
    """Return the milliseconds that the kernels of a call run on a GPU, without the time between."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            work.run(work.prepare())
        torch.cuda.synchronize()
    return sum(x.self_device_time_total for x in profiler.key_averages()) / 1000 / calls


def peak_memory(work: Work, device: str) -> float:
    """Return the megabytes that the tensors of a call take at their peak, above those before."""
    work.run(work.prepare())  # creates what is kept between calls, such as momenta
    argument = work.prepare()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work.run(argument)
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work.run(argument)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((x["ts"], x["args"]["Bytes"]) for x in events if x["name"] == "[memory]")
    return max(0, *accumulate(num_bytes for _, num_bytes in changes)) / 1e6


class _OperationCounter(TorchDispatchMode):
    """A mode that counts the operations that compute or fill tensors."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and not _NO_WORK.fullmatch(func._schema.name)
        return func(*args, **(kwargs or {}))


def count_operations(work: Work) -> int:
    """Count the operations that compute or fill tensors, in backward passes too."""
    argument = work.prepare()
    with _OperationCounter() as counter:
        work.run(argument)
    return counter.count


def count_host_waits(work: Work) -> int:
    """Count how often, at least, the host would wait for a GPU to read numbers or shapes."""
    argument = work.prepare()
    # Not by a dispatch mode: with one, autograd takes other ways.
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work.run(argument)
    return sum(x.count for x in profiler.key_averages() if x.key in _WAITS)


def read_processor_seconds() -> tuple[float, float]:
    """Return the seconds of all processors until now, and how many of them other processes used."""
    machine = psutil.cpu_times()
    total = sum(machine) - getattr(machine, "guest", 0.0) - getattr(machine, "guest_nice", 0.0)
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    return total, total - idle - sum(os.times()[:4])


def describe_machine(device: str) -> str:
    """Describe processor, memory, GPU and versions, without names of machines or folders."""
    file, threads = Path("/proc/cpuinfo"), psutil.cpu_count()
    names = re.findall(r"model name\s*: (.*)", file.read_text()) if file.is_file() else []
    processor = names[0] if names else platform.processor() or platform.machine()
    cores, memory = psutil.cpu_count(logical=False), psutil.virtual_memory().total / 2**30
    parts = [
        f"processor: {processor}, {cores or threads} cores ({threads} hardware threads)",
        f"memory: {memory:.0f} GiB",
        f"threads of torch: {torch.get_num_threads()}",
        f"system: {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        f"torch: {torch.__version__}; torchvision: {torchvision.__version__}",
        f"detectron2: {detectron2.__version__}",
    ]
    if device == "cuda":
        parts.append(f"GPU: {torch.cuda.get_device_name()}; CUDA: {torch.version.cuda}")
    return "; ".join(parts)
