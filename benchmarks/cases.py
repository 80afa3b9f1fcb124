"""What was measured of one piece of work, and how detectors compare in it."""

import dataclasses
import statistics

_OURS, _OTHERS = "fcos_d2", ("detectron2", "torchvision")


@dataclasses.dataclass
class Case:
    """
    What was measured of one piece of work: a column of a table.

    Attributes:
        table (str): the key of the table.
        column (str): the title of the column.
        unit (str): "ms", "MB" or "calls".
        values (dict[str, list[float]]): name of a row -> each measurement.
        images (int): images that one call handles.
        x (float): the size that costs grow with, where there is one.
    """

    table: str
    column: str
    unit: str
    values: dict[str, list[float]]
    images: int = 1
    x: float = 0

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

    def format(self) -> str:
        """Format what is printed as soon as the case is measured."""
        lines = [
            f"  {row:32} {self.median(row):12.2f} {self.unit}  ratio {self.format_ratio(row)}"
            for row in self.values
        ]
        return "\n".join([f"{self.table}: {self.column}", *lines])


def format_fraction(ratio: float) -> str:
    """Format a ratio, small ones as 1/n."""
    return f"1/{1 / ratio:.0f}" if 0 < ratio < 0.1 else f"{ratio:.2f}"
