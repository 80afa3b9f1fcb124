"""Write measured tables into docs/performance.md; its text is written by hand."""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

from fcos_d2.atomic_write import replacing

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"

_ONLY_ON_GPUS = ("inference_kernels", "training_kernels", "gpu_memory")
_TITLES = {
    "inference": "Inference: images to detections",
    "training": "Training step: forward, backward, SGD",
    "inference_kernels": "Inference: sum of the kernels",
    "training_kernels": "Training step: sum of the kernels",
    "gpu_memory": "Memory reserved on a GPU, above the weights",
    "model_memory": "Peak memory of the whole model, above its weights",
    "targets": "Target assignment",
    "targets_memory": "Peak memory of target assignment, one image",
    "losses": "Targets and losses, forward and backward",
    "operations": "Operations of targets and losses, forward and backward",
    "waits": "Waits of the host for a GPU, in the same calls",
    "selection": "Selection and NMS, one image",
    "settings": "Settings of fcos_d2",
    "settings_memory": "Peak memory with these settings",
    "parts": "Parts of fcos_d2 in inference",
}
_IN_SUMMARY = [x for x in list(_TITLES)[:12] if x not in _ONLY_ON_GPUS]
_OURS, _OTHERS = "fcos_d2", ("detectron2", "torchvision")


@dataclasses.dataclass
class Case:
    """What was measured of one piece of work: a column of a table."""

    table: str  # key in the titles
    column: str  # title of the column
    unit: str  # "ms", "MB" or "count"
    values: dict[str, list[float]]  # name of a row -> each measurement
    images: int = 1  # that one call handles

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


def write_page(page: Path, output_dir: Path) -> None:
    """Replace the tables of the devices that the results in a directory are of."""
    for device in ("cpu", "cuda"):
        path = output_dir / f"results-{device}.json"
        if not path.is_file():
            continue
        results = json.loads(path.read_text())
        groups = results["groups"].values()
        cases = [Case(**case) for group in groups for case in group["cases"]]
        load = max(group["load_of_others"] for group in groups)
        text = f"{results['machine']}. Other processes used at most {load:.0%} of the processors."
        if results["is_quick"]:
            text = f"**A quick run: these figures mean nothing.** {text}"
        replace_marked(page, f"summary of {device}", f"{text}\n\n{_format_summary(cases)}")
        tables = [_format_cases(title, cases, table) for table, title in _TITLES.items()]
        replace_marked(page, device, "\n".join(filter(None, tables)))


def replace_marked(page: Path, name: str, text: str) -> None:
    """Replace what a page has between its comments ``begin NAME`` and ``end NAME``."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    before, _, rest = page.read_text().partition(begin)
    _, found, after = rest.partition(end)
    assert found, f"{page} lacks the comments {begin.strip()} and {end}."
    with replacing(page) as temporary:
        temporary.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}")


def format_table(header: list[str], rows: list[list[str]]) -> str:
    """Format a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _format_number(value: float) -> str:
    """Format three digits, or all digits of larger numbers."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _format_cases(title: str, cases: list[Case], table: str) -> str:
    """Format the cases of a table as its columns, with the ratios below."""
    columns = [case for case in cases if case.table == table]
    if not columns:
        return ""
    rows = list(dict.fromkeys(row for case in columns for row in case.values))
    lines = [[row, *(_format_cell(case, row) for case in columns)] for row in rows]
    for row in rows:
        if any(case.ratios(row) for case in columns):
            lines.append([f"ratio of {row}", *(case.format_ratio(row) for case in columns)])
    header = [columns[0].unit, *(case.column for case in columns)]
    return f"### {title}\n\n{format_table(header, lines)}"


def _format_cell(case: Case, row: str) -> str:
    """Format the median of a row, with the images per second where whole models were timed."""
    if row not in case.values:
        return "-"
    value = case.median(row)
    if case.table not in ("inference", "training", "settings"):
        return _format_number(value)
    return f"{_format_number(value)} ({_format_number(case.images / value * 1000)} images/s)"


def _format_summary(cases: list[Case]) -> str:
    """Format the smallest and the largest ratio of each table."""
    lines, rows = [], ["fcos_d2", "fcos_d2, bf16"]
    for table in _IN_SUMMARY:
        line = [_TITLES[table]]
        for row in rows:
            ratios = [case.ratios(row) for case in cases if case.table == table]
            medians = sorted(statistics.median(x) for x in ratios if x)
            texts = dict.fromkeys(map(format_fraction, [*medians[:1], *medians[-1:]]))
            line.append(" to ".join(texts) or "-")
        lines.append(line)
    return format_table(["ratio to the best other detector", *rows], lines)


def run(args: argparse.Namespace) -> None:
    """Write the page from what was measured."""
    write_page(args.page, args.output_dir)
