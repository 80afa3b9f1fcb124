"""What was measured of one piece of work, and how detectors compare in it."""

import dataclasses
import math
import statistics

__all__ = ["Case", "format_fraction", "growth_exponent"]

_OURS, _OTHERS = "fcos_d2", ("detectron2", "torchvision")
_LEAST_ROUNDS = 4  # for quartiles


@dataclasses.dataclass
class Case:
    """
    What was measured of one piece of work: a column of a table.

    Attributes:
        table (str): the key of the table.
        column (str): the title of the column.
        unit (str): "ms", "MB", "images/s" or "calls".
        values (dict[str, list[float]]): name of a row -> each measurement.
        images (int): images that one call handles.
        x (float | None): the size that costs grow with, where there is one.
    """

    table: str
    column: str
    unit: str
    values: dict[str, list[float]]
    images: int = 1
    x: float | None = None

    def median(self, row: str) -> float:
        """Return the median of a row."""
        return statistics.median(self.values[row])

    def ratios(self, row: str) -> list[float]:
        """
        Divide ours by the best other detector in float32, within each round.

        The best is the one with the least median. Where only ours was measured, with several
        settings, the divisor is ours with its defaults. Other rows have no ratio: the list is
        empty.
        """
        divisors = [name for name in _OTHERS if name in self.values] or [_OURS]
        if row in divisors or not row.startswith(_OURS):
            return []
        divisor = min(divisors, key=self.median)
        return [x / y for x, y in zip(self.values[row], self.values[divisor], strict=True)]

    def format_ratio(self, row: str) -> str:
        """Format the median ratio and, in parentheses, its lower and upper quartile."""
        ratios = self.ratios(row)
        if not ratios:
            return "-"
        text = format_fraction(statistics.median(ratios))
        if len(ratios) < _LEAST_ROUNDS:
            return text
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return f"{text} ({format_fraction(low)} to {format_fraction(high)})"


def format_fraction(ratio: float) -> str:
    """Format a ratio, small ones as 1/n."""
    return f"1/{1 / ratio:.0f}" if 0 < ratio < 0.1 else f"{ratio:.2f}"


def growth_exponent(first: tuple[float, float], last: tuple[float, float]) -> float:
    """Compute the p of cost ~ size^p from two pairs (size, cost): 0 is constant, 1 linear."""
    return math.log(last[1] / first[1]) / math.log(last[0] / first[0])
