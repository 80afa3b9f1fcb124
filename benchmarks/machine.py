"""The machine that a benchmark runs on: its description, and how busy other processes keep it."""

import os
import platform
from importlib import metadata
from pathlib import Path

import detectron2
import psutil
import torch


class LoadOfOthers:
    """Measures the share of the processors that other processes use from now on."""

    def __init__(self) -> None:
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        machine, own = psutil.cpu_times(), os.times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        total = sum(machine) - getattr(machine, "guest", 0.0) - getattr(machine, "guest_nice", 0.0)
        return total, total - idle, sum(own[:4])

    def share(self) -> float:
        """Return the share since this object was made."""
        total, busy, own = (b - a for a, b in zip(self._start, self._read(), strict=True))
        return max(busy - own, 0.0) / max(total, 1e-9)


def describe_machine(device: str) -> str:
    """Describe processor, memory, GPU and versions, without names of machines or folders."""
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    parts = [
        f"processor: {_find_processor()}, {cores} cores ({psutil.cpu_count()} hardware threads)",
        f"memory: {memory:.0f} GiB",
        f"threads of torch: {torch.get_num_threads()}",
        f"system: {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        f"torch: {torch.__version__}",
        f"torchvision: {metadata.version('torchvision')}",
        f"detectron2: {getattr(detectron2, '__version__', 'unknown')}",
    ]
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        parts.append(f"GPU: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
        parts.append(f"CUDA: {torch.version.cuda}; cuDNN: {torch.backends.cudnn.version()}")
    return "; ".join(parts)


def _find_processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
