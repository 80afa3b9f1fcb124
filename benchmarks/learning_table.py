"""The table of who learned how much."""

import math
import statistics
from typing import Any

from machine import in_words

__all__ = ["format_learning"]

_OURS = "fcos_d2"


def format_learning(results: dict[str, Any]) -> str:
    """
    Markdown: a table and how ours stands to each of the others.

    Args:
        results (dict): of learning.py: "machine", "data", "iterations", "images", and "rows": name
            -> {"runs", "milliseconds_a_step", "iterations_of_equal_time", "runs_of_equal_time"}.
    """
    rows, iterations = results["rows"], results["iterations"]
    num_seeds = len(rows[_OURS]["runs"])
    lines = [
        f"{in_words(results['machine'])}. {results['data']}, {iterations} iterations of "
        f"{results['images']} images, the same backbone, batches, schedule, optimizer, memory "
        f"format and {num_seeds} seed{'s' if num_seeds > 1 else ''}; box AP, mean +- standard "
        "deviation. Ours starts with boxes of 4 strides to each side (PRIOR_LTRB), the other FCOS "
        "with empty ones, RetinaNet with its anchors.",
        "",
        f"| | parameters, M | ms a step | AP after {iterations} | iterations in the time of "
        "ours | AP then |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        runs = row["runs"]
        lines.append(
            f"| {name} | {runs[0]['parameters'] / 1e6:.2f} | {row['milliseconds_a_step']:.0f} | "
            f"{_spread(_aps(runs))} | {row['iterations_of_equal_time']} | "
            f"{_spread(_aps(row['runs_of_equal_time']))} |"
        )
    lines.append("")
    for title, key in (("iterations", "runs"), ("time", "runs_of_equal_time")):
        ours = _aps(rows[_OURS][key])
        for name, row in rows.items():
            if name != _OURS:
                lines.append(f"- At equal {title} {_comparison(ours, name, _aps(row[key]))}.")
    return "\n".join(lines) + "\n"


def _aps(runs: list[dict[str, Any]]) -> list[float]:
    return [run["AP"] for run in runs]


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} +- {statistics.stdev(values):.1f}"


def _comparison(ours: list[float], name: str, theirs: list[float]) -> str:
    difference = statistics.mean(ours) - statistics.mean(theirs)
    if len(ours) < 2:
        return f"ours is {difference:+.1f} from {name} (one seed: no standard error)"
    error = math.sqrt(
        statistics.variance(ours) / len(ours) + statistics.variance(theirs) / len(theirs)
    )
    verdict = "below by more than a standard error" if difference < -error else "not below"
    return f"ours is {difference:+.1f} from {name}, standard error {error:.1f}: {verdict}"
