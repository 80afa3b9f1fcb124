"""
Write docs/performance.md from what the benchmarks left in their output directory.

    python benchmarks/performance_page.py [--output-dir output/benchmark]

What was not measured stays as the page has it, or is said to be missing.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from benchmark import load_cases
from contest import Case
from demands import OUTSIDE_NETWORK
from learning_table import format_learning
from machine import in_words
from performance_plots import PLOTS, draw_plots
from performance_tables import (
    GROUP_TITLES,
    cases_table,
    demands_table,
    figure,
    format_table,
    growth_table,
)

from fcos_d2.atomic_write import replacing

__all__ = ["write_page"]

_INTRODUCTION = """\
# Performance

What fcos_d2 costs beside detectron2's own FCOS class and torchvision's: the same ResNet-50-FPN
with the same (random) weights, the same images, boxes and raw maps, 80 classes, centre sampling
with radius 1.5. `make benchmark` measures it and writes this page.

- All are called in one process, one after the other in an order that is shuffled every round.
  Figures are medians after warm-up; compare them within a column, not across machines, nor across
  tables: minutes apart the same call may take a third more or less.
- "Ratio" is ours, in any precision, to the best of the others in float32; of a setting, to the
  defaults. It is taken within each round; shown are the median over the rounds and in brackets the
  lower and upper quartile. "Met" and "missed" are what both quartiles say; machines are noisy.
- Each has its own way with the work: location generation, permuting and concatenating of maps are
  inside of the time. What is not the detector's (annotations in its format, copies of maps that it
  overwrites) is outside.
- All get their images through detectron2's normalising and padding; torchvision's own resizing is
  left out. Thresholds are set so that equally many candidates pass ("busy"), or are each one's own.
- Each has the defaults that it ships with. Ours are FrozenBN folded into the convolutions, weights
  and maps in the memory format channels_last, and a fused SGD, which the others do not have by
  default; "Settings" has the first two switched off. Checkpointed towers change nothing in
  inference: their ratio there shows what the machine does by itself.
- Images and annotations lie on the device already: copies to a GPU are not measured. Losses are
  not read for logs.
- Memory is the peak of tensors during a call, above what was there before. In inference ours keeps
  the folded weights of the backbone from call to call, so that it holds these twice; in training
  those of the layers that learn are kept for the backward pass, which "not folded" does without.
- Calls do not depend on the machine. "Operations" are those of PyTorch that compute or fill
  tensors, each a kernel on a GPU at least, copies to it apart; for "values read" (numbers, or
  shapes that depend on data) the host would wait for a GPU.
"""
_TITLES = {"cpu": "On a CPU", "cuda": "On a GPU"}
_LEARNING = "Learning"
_MISSING = "Not measured yet.\n"
_QUICK = "**Small sizes, to see that it runs: these figures say nothing.**\n"


def write_page(page: Path, output_dir: Path) -> None:
    """
    Args:
        page (Path): Markdown file; pictures go into images/performance/ beside it.
        output_dir (Path): with results-cpu.json, profile-cpu.json, the same of cuda, and
            learning.json, as far as they were made.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    before = _sections(page)
    parts = [_INTRODUCTION]
    of_gpu = before.get(_TITLES["cuda"], _MISSING) != _MISSING
    has_gpu = of_gpu or (output_dir / "results-cuda.json").is_file()
    for device, title in _TITLES.items():
        results = _read(output_dir / f"results-{device}.json")
        profiled = _read(output_dir / f"profile-{device}.json")
        section = _device_section(results, page, profiled, has_gpu) if results else []
        if profiled:
            section += _profile_section(profiled)
        parts += [f"## {title}\n", *(section or [before.get(title, _MISSING)])]
    learning = _read(output_dir / "learning.json")
    parts.append(f"## {_LEARNING}\n")
    parts.append(format_learning(learning) if learning else before.get(_LEARNING, _MISSING))
    with replacing(page) as temporary:
        temporary.write_text("\n".join(parts))


def _sections(page: Path) -> dict[str, str]:
    """Title -> text, of the page as it is."""
    text = page.read_text() if page.is_file() else ""
    parts = (part.partition("\n\n") for part in text.split("\n## ")[1:])
    return {title: section.rstrip() + "\n" for title, _, section in parts}


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def _device_section(results: dict[str, Any], page: Path, profiled: Any, has_gpu: bool) -> list[str]:
    cases, device = load_cases(results), results["device"]
    rounds = [len(x) for case in cases if case.unit == "ms" for x in case.values.values()]
    parts = [
        f"{in_words(results['machine'])}. Medians of at least {min(rounds, default=0)} rounds; "
        f"meanwhile other processes used {results['load_of_others']:.0%} of the processors.\n"
    ]
    if results["is_quick"]:
        parts.append(_QUICK)
    elif device == "cpu":
        parts += ["### What was asked for\n", demands_table(cases)]
        if profiled and not profiled["is_quick"]:
            parts.append(_left_to_win(profiled))
    for group, title in GROUP_TITLES.items():
        chosen = [case for case in cases if case.group == group]
        if chosen:
            parts += [f"### {title}\n", cases_table(chosen)]
        if chosen and group == "loader":
            parts.append(_loader_text(chosen[0], cases, has_gpu))
    growth = growth_table(cases, results["is_quick"])
    if growth:
        parts += ["### Growth\n", growth]
    pictures = draw_plots(cases, page.parent / "images" / "performance", device)
    for name, picture in pictures.items():
        where = picture.relative_to(page.parent).as_posix()
        parts.append(f"![Cost against {PLOTS[name][0]}]({where})\n")
    return parts


def _loader_text(loader: Case, cases: list[Case], has_gpu: bool) -> str:
    """What the figures of the loader mean for training; maybe there are some of a GPU too."""
    most = max(loader.values, key=loader.median_of)
    text = (
        "Workers run one thread each, live as long as the training, and map images while the "
        f"network trains; the best rate here is that of {most}."
    )
    steps = [case for case in cases if case.group == "training"]
    if not steps:
        return text + "\n"
    step = max(steps, key=lambda case: case.images)
    name, needed = max(
        (
            (x, step.images / step.median_of(x) * 1000)
            for x in step.values
            if x.startswith("fcos_d2")
        ),
        key=lambda pair: pair[1],
    )
    one = loader.median_of("1 worker")
    if step.images < loader.images:
        where = 'stands under "On a GPU"' if has_gpu else "was not measured"
        text += f" What a GPU takes at that batch size {where}."
    return text + (
        f" The fastest training step above ({name}, {step.name}) takes {figure(needed)} images/s: "
        f"{max(math.ceil(needed / one), 1)} worker(s) at {figure(one)} images/s each. By the same "
        f"rate 16 processors would deliver {figure(16 * one)} images/s (computed, not measured).\n"
    )


def _left_to_win(profiled: dict[str, Any]) -> str:
    shares = ", ".join(
        f"{found['shares']['no convolution or norm']:.1%} of {name}"
        for name, found in profiled["profiles"].items()
    )
    return (
        "Convolutions and norms are the same for all, but for what folding and memory formats "
        f"save. Of ours no more than the rest is left to win: {shares} (the profile is below).\n"
    )


def _profile_section(profiled: dict[str, Any]) -> list[str]:
    device = profiled["device"]
    time, limit = ("gpu_ms" if device == "cuda" else "cpu_ms"), OUTSIDE_NETWORK[device]
    parts = ["### Where our time goes\n", f"{in_words(profiled['machine'])}.\n"]
    if profiled["is_quick"]:
        parts.append(_QUICK)
    targets = profiled["targets"]
    cells = [[name, f"{calls:.0f}", figure(ms)] for name, calls, ms in targets["operations"]]
    text = (
        f"Targets, {targets['work']}, again and again with nothing of the others in between: "
        f"{figure(targets['wall_ms'])} ms. Most of it, by the profiler, are:\n"
    )
    parts += [text, format_table(["operation", "calls", "ms"], cells)]
    for name, found in profiled["profiles"].items():
        rows, total = found["rows"], sum(row[time] for row in found["rows"])
        cells = [
            [
                row["stage"] + (", backward" if row["pass"] == "backward" else ""),
                figure(row[time]),
                f"{row[time] / total:.1%}",
                *(f"{row[kind] / total:.1%}" for kind in ("convolution", "norm", "rest")),
            ]
            for row in rows
        ]
        shares = found["shares"]
        outside = shares["outside backbone, neck and head"]
        text = (
            f"{name.capitalize()}, {found['work']}: {figure(found['wall_ms'])} ms by the clock, "
            f"{figure(total)} ms by the profiler. {shares['no convolution or norm']:.1%} are no "
            f"convolution or norm; {outside:.1%} are outside backbone, neck and head"
        )
        if name.startswith("training") and not profiled["is_quick"]:
            verdict = "met" if outside <= limit else "missed"
            text += (
                f", the optimizer's {shares['of these the optimizer']:.1%} included "
                f"(asked for: < {limit:.0%}, {verdict})"
            )
        header = ["stage", "ms", "share", "convolution", "norm", "rest"]
        parts += [text + ".\n", format_table(header, cells)]
    return parts


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output-dir", type=Path, default=Path("output/benchmark"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    args = parser.parse_args(argv)
    write_page(args.page, args.output_dir)
    print(f"written: {args.page}")


if __name__ == "__main__":
    main()
