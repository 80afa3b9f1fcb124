"""What cases of the benchmark share: the detectors, how a case is measured, its figures."""

import dataclasses
import statistics
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from adapters import ADAPTERS, Adapter, Ours, build_adapters
from machine import available_memory
from measuring import Work, median, peak_memory, time_interleaved
from workloads import Batch, Sizes, draw_batch, make_cfg

__all__ = ["Bench", "Case"]

_LEAST_ROUNDS = 4  # that have quartiles
_MOST_SECONDS = 60  # that a peer may take for all calls of a case


@dataclasses.dataclass
class Case:
    """
    What was measured of one piece of work.

    Attributes:
        group (str): cases that share a plot or a table.
        name (str): what differs from the others of the group.
        unit (str): "ms", "MB", "images/s" or "calls".
        values (dict[str, list[float]]): contestant -> each measurement.
        x (float): the number that differs, where it is one.
        images (int): that one call handles.
        skipped (dict[str, str]): contestant -> why it was not measured.
    """

    group: str
    name: str
    unit: str
    values: dict[str, list[float]]
    x: float | None = None
    images: int = 1
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)

    def median_of(self, contestant: str) -> float:
        return median(self.values[contestant])

    def ratio(self, contestant: str) -> float | None:
        """
        Of ours, in any precision, to the best of the others in float32; of ours with other settings
        to ours where there are no others; None elsewhere. It is the median over the rounds, and the
        best that with the least median.
        """
        ratios = self._ratios(contestant)
        return median(ratios) if ratios else None

    def quartiles(self, contestant: str) -> tuple[float, float] | None:
        """Of ``ratio`` over the rounds: how far the machine's noise moves it."""
        ratios = self._ratios(contestant)
        if len(ratios) < _LEAST_ROUNDS:
            return None
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, high

    def _ratios(self, contestant: str) -> list[float]:
        """One a round, in which both had the same moments of the machine."""
        yardstick = self._yardstick(contestant)
        if yardstick is None:
            return []
        pairs = zip(self.values[contestant], self.values[yardstick], strict=True)
        return [ours / theirs for ours, theirs in pairs]

    def _yardstick(self, contestant: str) -> str | None:
        """The one that a contestant's ratio is to."""
        others = [x.name for x in ADAPTERS if x is not Ours and x.name in self.values]
        others = others or [Ours.name]
        if contestant in others or not contestant.startswith(Ours.name):
            return None
        return min(others, key=self.median_of)


@dataclasses.dataclass
class Bench:
    """What the groups share: sizes, device, repeats, and the detectors with one set of weights."""

    sizes: Sizes
    device: str
    repeats: int
    # Of ours, that are told apart from its defaults: name -> KEY, VALUE, ...
    settings: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)

    @cached_property
    def adapters(self) -> list[Adapter]:
        return build_adapters(make_cfg(self.sizes, self.device))

    @cached_property
    def num_classes(self) -> int:
        return make_cfg(self.sizes, self.device).MODEL.FCOS.NUM_CLASSES

    @property
    def precisions(self) -> list[str]:
        return ["float32", "bf16"] if self.device == "cpu" else ["float32", "tf32", "bf16"]

    def draw(self, num_images: int, image_size: tuple[int, int], num_boxes: int) -> Batch:
        return draw_batch(num_images, image_size, num_boxes, self.num_classes, self.device)

    def time(self, group: str, name: str, works: dict[str, Work], **extra: Any) -> Case:
        values = time_interleaved(works, self.repeats, self.device)
        return Case(group, name, "ms", values, **extra)

    def peaks(self, group: str, name: str, works: dict[str, Work], **extra: Any) -> Case:
        values = {key: [peak_memory(work, self.device)] for key, work in works.items()}
        return Case(group, name, "MB", values, **extra)

    def reason_to_skip(self, milliseconds: float, num_bytes: float) -> str | None:
        """Of a peer, from what a call of it is expected to take at least."""
        seconds = milliseconds / 1000 * (self.repeats + 1)
        if seconds > _MOST_SECONDS:
            return f"would take more than {_MOST_SECONDS} s (at least {seconds:.0f} s)"
        if num_bytes > available_memory(self.device) / 2:
            return f"would take more than half the memory ({num_bytes / 1e9:.0f} GB)"
        return None
