"""The machine: which part of it to use, in words, what of its memory is free, what else it does."""

import argparse
import os
import platform
from importlib import metadata
from pathlib import Path

import psutil
import torch

__all__ = [
    "LoadOfOthers",
    "add_machine_flags",
    "available_memory",
    "describe_machine",
    "in_words",
    "use_machine",
]


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")


def use_machine(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Check and set what the flags of ``add_machine_flags`` say."""
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    if args.threads is not None:
        if args.threads < 1:
            parser.error("--threads must be at least 1")
        torch.set_num_threads(args.threads)


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
    """What ``describe_machine`` found, in a line."""
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
