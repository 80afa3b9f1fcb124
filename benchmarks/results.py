"""What was measured of one piece of work, and the machine that it was measured on."""

import dataclasses
import os
import platform
import re
import statistics
from pathlib import Path

import detectron2
import psutil
import torch
import torchvision

_OURS, _OTHERS = "fcos_d2", ("detectron2", "torchvision")


@dataclasses.dataclass
class Case:
    """
    What was measured of one piece of work: a column of a table.

    Attributes:
        table (str): the key of the table.
        column (str): the title of the column.
        unit (str): "ms", "MB" or "count".
        values (dict[str, list[float]]): name of a row -> each measurement.
        images (int): images that one call handles.
    """

    table: str
    column: str
    unit: str
    values: dict[str, list[float]]
    images: int = 1

    def median(self, row: str) -> float:
        """Return the median of a row."""
        return statistics.median(self.values[row])

    def ratios(self, row: str) -> list[float]:
        """
        Divide ours by the best other detector in float32, within each round.

        The best is the one with the least median. Where only ours was measured, with several
        settings, the divisor is ours with its defaults. Rows of others have no ratios.
        """
        divisors = [name for name in _OTHERS if name in self.values] or [_OURS]
        if row in divisors or not row.startswith(_OURS) or row not in self.values:
            return []
        divisor = min(divisors, key=self.median)
        return [x / y for x, y in zip(self.values[row], self.values[divisor], strict=True)]

    def format_ratio(self, row: str) -> str:
        """Format the median ratio and, in parentheses, its lower and upper quartile."""
        ratios = self.ratios(row)
        if len(ratios) < 4:
            return format_fraction(statistics.median(ratios)) if ratios else "-"
        quartiles = statistics.quantiles(ratios, n=4, method="inclusive")
        low, middle, high = map(format_fraction, quartiles)
        return f"{middle} ({low} to {high})"


def format_fraction(ratio: float) -> str:
    """Format a ratio, small ones as 1/n."""
    return f"1/{1 / ratio:.0f}" if 0 < ratio < 0.1 else f"{ratio:.2f}"


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
        gpu = torch.cuda.get_device_properties(0)
        parts.append(f"GPU: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
        parts.append(f"CUDA: {torch.version.cuda}; cuDNN: {torch.backends.cudnn.version()}")
    return "; ".join(parts)
