"""
Where the time of our detector goes, stage by stage, and how much of it is no convolution or norm.

    python benchmarks/profile_stages.py [--device cuda] [--quick]

torch's profiler gives the time of each operation without those that it calls; an operation counts
for the stage that it ran in, one of the backward pass for the stage of the operation whose gradient
it computes. Writes profile-cpu.json or profile-cuda.json into the output directory.
"""

import argparse
import functools
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from adapters import Ours
from detectron2.layers import FrozenBatchNorm2d
from machine import add_machine_flags, describe_machine, use_machine
from measuring import Work, median, time_interleaved
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from workloads import FULL, QUICK, Sizes, draw_batch, make_cfg

import fcos_d2.modeling.postprocessing as postprocessing
from fcos_d2.atomic_write import replacing

__all__ = ["NETWORK_STAGES", "PROFILED", "profile_targets", "profile_work", "profiled_stages"]

NETWORK_STAGES = ("backbone", "neck", "head")
# Functions that post-processing calls -> stage.
_FUNCTIONS = {
    "threshold_candidates": "selection",
    "best_candidates": "selection",
    "decode_candidates": "selection",
    "suppress": "NMS",
}
_STAGES = (*NETWORK_STAGES, "targets", "losses", "selection", "NMS", "optimizer", "other")
_KINDS = ("convolution", "norm", "rest")
_RANGE = "stage: "
_NORM_RANGE = "kind: norm"
_OPTIMIZER = "Optimizer.step"  # torch's own mark
_MARKS = (_RANGE, _NORM_RANGE, _OPTIMIZER)
_CONVOLUTION = re.compile(r"conv", re.IGNORECASE)
_NORM = re.compile(r"(batch|group|layer)_?norm|^kind: norm$", re.IGNORECASE)
_OF_BACKWARD = "autograd::engine::evaluate_function"
_CALLS = 3  # that figures are means of
_SHORT_CALLS = 10  # as many times that, of what takes milliseconds
_MOST_OPERATIONS = 8

# What is profiled: name -> (method of the adapter, its precision).
PROFILED = {
    "inference": ("inference", "float32"),
    "training step": ("training_step", "float32"),
    "training step, bf16": ("training_step", "bf16"),
}


def _in_range(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with record_function(name):
            return function(*args, **kwargs)

    return run


@contextmanager
def profiled_stages(model: Any) -> Iterator[None]:
    """Mark the stages of our detector for the profiler, for as long as the block lasts."""
    modules: list[tuple[nn.Module, str]] = [
        (model.backbone, f"{_RANGE}neck"),  # what the bottom-up network in it leaves
        (model.backbone.bottom_up, f"{_RANGE}backbone"),
        (model.head, f"{_RANGE}head"),
        (model.losses, f"{_RANGE}losses"),
    ]
    norms = [x for x in model.modules() if isinstance(x, FrozenBatchNorm2d)]
    modules += [(norm, _NORM_RANGE) for norm in norms]  # in training a product and a sum
    with ExitStack() as stack:
        for module, name in modules:
            stack.enter_context(
                mock.patch.object(module, "forward", _in_range(module.forward, name))
            )
        for function_name, stage in _FUNCTIONS.items():
            function = getattr(postprocessing, function_name)
            marked = _in_range(function, f"{_RANGE}{stage}")
            stack.enter_context(mock.patch.object(postprocessing, function_name, marked))
        assigner = _in_range(model.assigner.__call__, f"{_RANGE}targets")
        stack.enter_context(mock.patch.object(model, "assigner", assigner))
        yield


def profile_work(model: Any, work: Work, device: str, calls: int) -> dict[str, Any]:
    """
    Returns:
        dict: "wall_ms", the median without the profiler; "rows": for each stage and pass
        {"stage", "pass", "cpu_ms", "gpu_ms" (0 on a CPU), "convolution", "norm", "rest"}, the last
        three in milliseconds of the device.
    """
    wall = median(time_interleaved({"": work}, calls, device)[""])
    with profiled_stages(model):
        work.run(work.prepare())
        profiler = _profile_calls(work, device, calls)
    return {"wall_ms": wall, "rows": _sum_up(profiler.events(), device, calls)}


def _profile_calls(work: Work, device: str, calls: int) -> profile:
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        for _ in range(calls):
            work.run(work.prepare())
        if device == "cuda":
            torch.cuda.synchronize()
    return profiler


def _is_on_host(event: Any) -> bool:
    return bool(event.device_type == torch.autograd.DeviceType.CPU)


def _sum_up(events: Any, device: str, calls: int) -> list[dict[str, Any]]:
    on_host = list(filter(_is_on_host, events))
    places: dict[int, tuple[str, str]] = {}  # of forward operations, by their sequence number
    for event in on_host:
        if event.sequence_nr >= 0 and not _is_of_backward(event):
            places[event.sequence_nr] = _place(event)
    sums: dict[tuple[str, str], dict[str, float]] = {}
    for event in on_host:
        stage, kind = _place(event)
        direction = "forward"
        if _is_of_backward(event):
            direction = "backward"
            root = list(_ancestry(event))[-1]
            stage, kind_of_forward = places.get(root.sequence_nr, ("other", "rest"))
            kind = kind if kind != "rest" else kind_of_forward
        cpu_ms = event.self_cpu_time_total / 1000 / calls
        gpu_ms = 0.0
        # A marked range launches nothing itself, and may be given the time of what is in it.
        if device == "cuda" and not event.name.startswith(_MARKS):
            gpu_ms = event.self_device_time_total / 1000 / calls
        row = sums.setdefault((stage, direction), dict.fromkeys(("cpu_ms", "gpu_ms", *_KINDS), 0.0))
        row["cpu_ms"] += cpu_ms
        row["gpu_ms"] += gpu_ms
        row[kind] += gpu_ms if device == "cuda" else cpu_ms
    return [
        {"stage": stage, "pass": direction, **sums[stage, direction]}
        for stage in _STAGES
        for direction in ("forward", "backward")
        if (stage, direction) in sums
    ]


def _ancestry(event: Any) -> Iterator[Any]:
    """The operation, that which called it, and so on."""
    while event is not None:
        yield event
        event = event.cpu_parent


def _is_of_backward(event: Any) -> bool:
    return any(x.name.startswith(_OF_BACKWARD) for x in _ancestry(event))


def _place(event: Any) -> tuple[str, str]:
    """(stage, kind) by the names of the operation and of those around it."""
    stage, kind = "other", "rest"
    names = [caller.name for caller in _ancestry(event)]
    is_cast = ("aten::to", "aten::conv2d") in pairwise(names)  # autocast's copies
    for name in names:
        if kind == "rest" and _NORM.search(name):
            kind = "norm"
        elif kind == "rest" and _CONVOLUTION.search(name) and not is_cast:
            kind = "convolution"
        if name.startswith(_RANGE):
            return name.removeprefix(_RANGE), kind
        if name.startswith(_OPTIMIZER):
            stage = "optimizer"
    return stage, kind


def shares(rows: list[dict[str, Any]], device: str) -> dict[str, float]:
    """Of the device's time: what is no convolution or norm, and what is outside the network."""
    time = "gpu_ms" if device == "cuda" else "cpu_ms"
    total = sum(row[time] for row in rows)
    outside = [row for row in rows if row["stage"] not in NETWORK_STAGES]
    optimizer = [row for row in outside if row["stage"] == "optimizer"]
    return {
        "no convolution or norm": sum(row["rest"] for row in rows) / total,
        "outside backbone, neck and head": sum(row[time] for row in outside) / total,
        "of these the optimizer": sum(row[time] for row in optimizer) / total,
    }


def profile_targets(ours: Ours, sizes: Sizes, device: str, calls: int) -> dict[str, Any]:
    """
    Target assignment alone, with nothing of other detectors in between.

    Returns:
        dict: "work"; "wall_ms", the median without the profiler; "operations": [name, calls,
        milliseconds of the device] of those that take most.
    """
    count = sizes.boxes[len(sizes.boxes) // 2]
    work = ours.targets(draw_batch(sizes.targets_batch, sizes.image, count, 1, device))
    wall = median(time_interleaved({"": work}, calls, device)[""])
    operations = filter(_is_on_host, _profile_calls(work, device, calls).key_averages())
    time = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    found = [[x.key, x.count / calls, getattr(x, time) / 1000 / calls] for x in operations]
    found.sort(key=lambda operation: -operation[2])
    words = f"{sizes.targets_batch} images of {count} boxes"
    return {"work": words, "wall_ms": wall, "operations": found[:_MOST_OPERATIONS]}


def profile_ours(ours: Ours, sizes: Sizes, device: str, calls: int) -> dict[str, Any]:
    results = {}
    for name, (method, precision_name) in PROFILED.items():
        images, size = (1, sizes.image) if method == "inference" else (2, sizes.train_image)
        batch = draw_batch(images, size, sizes.train_boxes, ours.model.num_classes, device)
        work = getattr(ours, method)(batch, precision_name)
        found = profile_work(ours.model, work, device, calls)
        found["work"] = f"{images} image{'s' if images > 1 else ''} of {size[0]}x{size[1]}"
        found["shares"] = shares(found["rows"], device)
        results[name] = found
    return results


def _print(name: str, found: dict[str, Any]) -> None:
    print(f"{name}, {found['work']}: {found['wall_ms']:.1f} ms without the profiler")
    for row in found["rows"]:
        times = [f"{key} {row[key]:9.3f}" for key in ("cpu_ms", "gpu_ms", *_KINDS)]
        print(f"  {row['stage']:10s}{row['pass']:9s}", *times)
    print(*(f"  {key}: {share:.1%}" for key, share in found["shares"].items()), sep="\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_machine_flags(parser)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--output-dir", type=Path, default=Path("output/benchmark"))
    args = parser.parse_args(argv)
    use_machine(parser, args)
    logging.disable(logging.WARNING)  # that random weights are frozen
    sizes, calls = (QUICK, 1) if args.quick else (FULL, _CALLS)
    torch.manual_seed(0)
    ours = Ours(Ours.build(make_cfg(sizes, args.device)))
    targets = profile_targets(ours, sizes, args.device, calls * _SHORT_CALLS)
    print(f"targets, {targets['work']}: {targets['wall_ms']:.2f} ms without the profiler")
    profiles = profile_ours(ours, sizes, args.device, calls)
    for name, found in profiles.items():
        _print(name, found)
    results = {
        "machine": describe_machine(args.device),
        "device": args.device,
        "is_quick": args.quick,
        "profiles": profiles,
        "targets": targets,
    }
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / f"profile-{args.device}.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
