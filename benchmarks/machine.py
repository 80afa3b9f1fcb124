"""The machine in words, what of its memory is free, and what else it does."""

import os
import platform
from importlib import metadata
from pathlib import Path

import psutil
import torch

__all__ = ["LoadOfOthers", "available_memory", "describe_machine", "in_words"]


def available_memory(device: str) -> float:
    """Bytes that could be had now."""
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    return float(psutil.virtual_memory().available)


class LoadOfOthers:
    """Share of the machine's processors that other processes used since this was made."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        machine, own = psutil.cpu_times(), os.times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        total = sum(machine) - getattr(machine, "guest", 0.0) - getattr(machine, "guest_nice", 0.0)
        return total, total - idle, sum(own[:4])

    def share(self) -> float:
        total, busy, own = (b - a for a, b in zip(self._start, self._now(), strict=True))
        return max(busy - own, 0.0) / max(total, 1e-9)


def describe_machine(device: str) -> dict[str, str]:
    """In words that name no machine and no folder: processor, memory, GPU, versions."""
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    words = {
        "processor": f"{_processor()}, {cores} cores ({psutil.cpu_count()} hardware threads)",
        "memory": f"{memory:.0f} GiB",
        "threads of torch": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "torch": torch.__version__,
        "torchvision": metadata.version("torchvision"),
        "detectron2": _detectron2_version(),
    }
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        words["GPU"] = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
        words["CUDA, cuDNN"] = f"{torch.version.cuda}, {torch.backends.cudnn.version()}"
    return words


def in_words(machine: dict[str, str]) -> str:
    """What :func:`describe_machine` found, in a line."""
    return "; ".join(f"{key}: {value}" for key, value in machine.items())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _detectron2_version() -> str:
    import detectron2

    return str(getattr(detectron2, "__version__", "unknown"))
