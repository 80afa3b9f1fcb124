"""
Time ours against detectron2's and torchvision's FCOS, with the same weights, on the same data.

    python benchmarks/benchmark.py [--only GROUP ...] [--device cuda] [--quick]

Within a case all are called in turn, in an order shuffled anew every round; figures are medians, to
be compared within a case. Writes results-cpu.json or results-cuda.json into the output directory
and prints a table; with --only, what is there of other groups, from the same machine, is kept.
`python benchmarks/performance_page.py` makes the page of it.
"""

import argparse
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from cases import GROUPS, SETTINGS
from contest import Bench, Case
from machine import LoadOfOthers, add_machine_flags, describe_machine, use_machine
from workloads import FULL, QUICK, make_cfg

from fcos_d2.atomic_write import replacing

__all__ = ["format_case", "load_cases", "measure", "median_costs"]

_LEAST_REPEATS = 7


def measure(bench: Bench, groups: list[str], path: Path) -> list[Case]:
    """Measure; print each case, and write the file anew after each group, as the next may fail."""
    results: dict[str, Any] = {
        "machine": describe_machine(bench.device),
        "device": bench.device,
        "is_quick": bench.sizes == QUICK,
        "load_of_others": 0.0,
    }
    before = _read_before(path, results)
    kept, load, cases = load_cases(before), LoadOfOthers(), []
    path.parent.mkdir(parents=True, exist_ok=True)
    for group in groups:
        for case in GROUPS[group](bench):
            print(format_case(case), flush=True)
            cases.append(case)
        measured = {case.group for case in cases}
        rest = [case for case in kept if case.group not in measured]
        share = load.share()
        # Of what is kept it is not known for which cases it was.
        results["load_of_others"] = max(share, before["load_of_others"] if rest else 0.0)
        results["cases"] = [dataclasses.asdict(case) for case in (*rest, *cases)]
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written: {path}; meanwhile others used {share:.0%} of the processors")
    return cases


def _read_before(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    """What the file has, if it is of the same machine and sizes."""
    before: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if any(before.get(key) != results[key] for key in ("machine", "is_quick")):
        return {"cases": [], "load_of_others": 0.0}
    return before


def load_cases(results: dict[str, Any]) -> list[Case]:
    """Those of a file of results."""
    return [Case(**case) for case in results["cases"]]


def median_costs(cases: list[Case], group: str) -> dict[str, list[tuple[float, float]]]:
    """Contestant -> (x, median) of each case of the group, for plots and growth."""
    costs: dict[str, list[tuple[float, float]]] = {}
    for case in cases:
        if case.group == group and case.x is not None:
            for contestant in case.values:
                costs.setdefault(contestant, []).append((case.x, case.median_of(contestant)))
    return costs


def format_case(case: Case) -> str:
    """One line a contestant: median, and of ours the ratio."""
    lines = [f"{case.group}: {case.name}"]
    for contestant in case.values:
        text = f"  {contestant:18s} {case.median_of(contestant):12.2f} {case.unit}"
        ratio = case.ratio(contestant)
        lines.append(text + ("" if ratio is None else f"  ratio {ratio:.4f}"))
    lines += [f"  {name:18s} left out: {reason}" for name, reason in case.skipped.items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(GROUPS), metavar="GROUP", help=", ".join(GROUPS)
    )
    add_machine_flags(parser)
    parser.add_argument("--repeats", type=int, default=_LEAST_REPEATS, help="rounds of each case")
    parser.add_argument(
        "--setting",
        nargs="+",
        action="append",
        metavar=("NAME", "KEY VALUE"),
        help="for the group 'settings': ours with these config values, in place of those that it "
        "tries by itself; may be repeated",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument(
        "--output-dir", type=Path, help="default: output/benchmark, with --quick benchmark_quick"
    )
    args = parser.parse_args(argv)
    if args.output_dir is None:
        args.output_dir = Path("output/benchmark_quick" if args.quick else "output/benchmark")
    if args.repeats < 1:
        parser.error("--repeats must be at least 1")
    if args.repeats < _LEAST_REPEATS and not args.quick:
        print(f"Fewer than {_LEAST_REPEATS} repeats say little.")
    for name, *opts in args.setting or []:
        try:
            make_cfg(FULL, args.device, *opts)
        except (AssertionError, KeyError, ValueError) as error:
            parser.error(f"--setting {name} takes pairs KEY VALUE of the config: {error}")
    use_machine(parser, args)
    logging.disable(logging.WARNING)  # that random weights are frozen
    settings = SETTINGS
    if args.quick:  # compiling takes minutes
        settings = {name: opts for name, opts in SETTINGS.items() if name != "compiled"}
    if args.setting:
        settings = {name: tuple(opts) for name, *opts in args.setting}
    bench = Bench(QUICK if args.quick else FULL, args.device, args.repeats, settings)
    measure(bench, args.only or list(GROUPS), args.output_dir / f"results-{args.device}.json")


if __name__ == "__main__":
    main()
