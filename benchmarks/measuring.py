"""Time and memory of a call, and its precision."""

import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = [
    "Work",
    "autocast",
    "growth_exponent",
    "median",
    "peak_memory",
    "precision",
    "time_imports",
    "time_interleaved",
]

# A GPU needs some calls until its allocator has its blocks and cuDNN its algorithms.
_WARM_UPS = {"cpu": 1, "cuda": 3}
_SHORT_ROUND = 1000  # milliseconds
_MORE_ROUNDS = 3  # times as many of those that are shorter


def _nothing() -> None:
    return None


class Work(NamedTuple):
    """``run`` is timed, and gets what ``prepare``, which is not, returned just before."""

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = _nothing


def time_interleaved(
    works: dict[str, Work], repeats: int, device: str, seed: int = 0
) -> dict[str, list[float]]:
    """
    Call each in turn, in an order that is shuffled anew every round, so that whatever else the
    machine does falls on all alike. Where a round takes less than a second, three times as many are
    made: a moment's disturbance is a large part of it.

    Args:
        works (dict[str, Work]): name -> what to call.
        repeats (int): rounds that count, or a third of them; one more on a CPU, three more on a GPU
            go before them.
        device (str): "cpu": by the clock; "cuda": by events on the stream.

    Returns:
        dict[str, list[float]]: name -> milliseconds of each call, one a round.
    """
    call = _call_on_cuda if device == "cuda" else _call_on_cpu
    warm_ups = [[call(work) for _ in range(_WARM_UPS[device])] for work in works.values()]
    if sum(map(min, warm_ups)) < _SHORT_ROUND:
        repeats *= _MORE_ROUNDS
    milliseconds: dict[str, list[float]] = {name: [] for name in works}
    shuffler, order = random.Random(seed), list(works)
    with _garbage_collected_by_hand():
        for _ in range(repeats):
            gc.collect()
            shuffler.shuffle(order)
            for name in order:
                milliseconds[name].append(call(works[name]))
    return milliseconds


def _call_on_cpu(work: Work) -> float:
    argument = work.prepare()
    start = time.perf_counter()
    work.run(argument)
    return (time.perf_counter() - start) * 1000


def _call_on_cuda(work: Work) -> float:
    argument = work.prepare()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work.run(argument)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


@contextmanager
def _garbage_collected_by_hand() -> Iterator[None]:
    """None on its own; what was there before is not looked through."""
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def peak_memory(work: Work, device: str) -> float:
    """
    Megabytes (10^6 bytes) that the tensors of a call take at most, above what was there before.

    On a CPU from the allocations that torch's profiler records, on a GPU from torch's allocator.
    """
    work.run(work.prepare())  # what is kept from call to call, such as momenta, is there
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
    changes = [x for x in events if x["name"] == "[memory]"]
    held = peak = 0
    for change in sorted(changes, key=lambda x: x["ts"]):
        held += change["args"]["Bytes"]
        peak = max(peak, held)
    return peak / 1e6


@contextmanager
def precision(name: str) -> Iterator[None]:
    """
    Matrix products and convolutions of a GPU in TensorFloat-32 if ``name`` is "tf32", else not.

    Forward and backward must both be inside; autocast is the forward's alone.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def autocast(name: str, device: torch.device) -> torch.autocast:
    """bfloat16 if ``name`` is "bf16", else nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16")


def time_imports(modules: dict[str, str], repeats: int) -> dict[str, list[float]]:
    """
    Milliseconds that importing each module takes in a fresh process on top of ``import torch``.

    Args:
        modules (dict[str, str]): name -> module.
    """
    code = (
        "import sys, time, importlib, torch\n"
        "start = time.perf_counter()\n"
        "importlib.import_module(sys.argv[1])\n"
        "print((time.perf_counter() - start) * 1000)"
    )

    def work_of(times: list[float], module: str) -> Callable[[], None]:
        def run() -> None:
            process = subprocess.run(
                [sys.executable, "-c", code, module], capture_output=True, text=True, check=True
            )
            times.append(float(process.stdout.split()[-1]))

        return run

    milliseconds: dict[str, list[float]] = {name: [] for name in modules}
    runs = [work_of(milliseconds[name], module) for name, module in modules.items()]
    for run in runs:
        run()  # reads the files from the disk
    for times in milliseconds.values():
        times.clear()
    shuffler = random.Random(0)
    for _ in range(repeats):
        shuffler.shuffle(runs)
        for run in runs:
            run()
    return milliseconds


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def growth_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The p of cost ~ size^p, from the first to the last: 0 is flat, 1 linear."""
    xs, ys = (torch.tensor([x[0], x[-1]]).double().log() for x in (sizes, costs))
    return float(ys.diff() / xs.diff())
