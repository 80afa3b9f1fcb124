"""Measure time, memory, operations and growth of ours, detectron2's and torchvision's FCOS."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from cases import Case
from data_loading import measure_loader
from detectron2.config import CfgNode
from machine import LoadOfOthers, describe_machine
from measuring import Work, count_host_waits, count_operations, peak_memory, time_interleaved
from peers import Maps, Ours, Peer, build_peers
from stages import time_stages
from workloads import FULL, QUICK, Batch, Sizes, draw_batch, draw_maps, make_cfg
from works import (
    make_assignment,
    make_inference,
    make_losses,
    make_selection,
    make_training_step,
)

from fcos_d2.atomic_write import replacing

__all__ = ["GROUPS", "Bench", "add_arguments", "measure", "run"]

_SETTINGS: dict[str, tuple[Any, ...]] = {
    "not folded": ("MODEL.FCOS.FOLD_FROZEN_BN", False),
    "not channels_last": ("MODEL.FCOS.CHANNELS_LAST", False),
    "neither": ("MODEL.FCOS.FOLD_FROZEN_BN", False, "MODEL.FCOS.CHANNELS_LAST", False),
    "towers checkpointed": ("MODEL.FCOS.CHECKPOINT_TOWERS", True),
    "compiled": ("MODEL.FCOS.COMPILE", True),
}


@dataclasses.dataclass
class Bench:
    """What the groups share: the sizes, the device, the rounds, and the detectors."""

    sizes: Sizes
    device: str
    repeats: int

    @cached_property
    def cfg(self) -> CfgNode:
        """The config of our detector."""
        return make_cfg(self.sizes, self.device)

    @cached_property
    def peers(self) -> list[Peer]:
        """All detectors with the same weights, ours first."""
        return build_peers(self.cfg)

    def draw(self, num_images: int, image_size: tuple[int, int], num_boxes: int) -> Batch:
        """Draw the annotations of a batch."""
        num_classes = self.cfg.MODEL.FCOS.NUM_CLASSES
        return draw_batch(num_images, image_size, num_boxes, num_classes, self.device)

    def draw_maps(self, batch: Batch, num_candidates: int = 0) -> Maps:
        """Draw raw maps for a batch."""
        return draw_maps(batch, self.cfg.MODEL.FCOS.NUM_CLASSES, num_candidates)

    def time(self, table: str, column: str, works: dict[str, Work], **kwargs: Any) -> Case:
        """Measure milliseconds; ``kwargs`` are of ``Case``."""
        values = time_interleaved(works, self.repeats, self.device)
        return Case(table, column, "ms", values, **kwargs)

    def peaks(self, table: str, column: str, works: dict[str, Work], **kwargs: Any) -> Case:
        """Measure peak memory."""
        values = {name: [peak_memory(work, self.device)] for name, work in works.items()}
        return Case(table, column, "MB", values, **kwargs)


def _of_each(peers: list[Peer], make: Callable[..., Work], *args: Any) -> dict[str, Work]:
    return {peer.name: make(peer, *args) for peer in peers}


def measure_targets(bench: Bench) -> Iterator[Case]:
    """Assign targets; memory is that of one image, as the others go image by image."""
    sizes = bench.sizes
    for count in sizes.boxes:
        peers = bench.peers if count <= sizes.most_boxes_of_others else bench.peers[:1]
        for images, method in ((sizes.large_batch, bench.time), (1, bench.peaks)):
            works = _of_each(peers, make_assignment, bench.draw(images, sizes.image, count))
            table = "targets" if images > 1 else "targets_memory"
            yield method(table, f"{count} boxes an image", works, x=count, images=images)


def measure_losses(bench: Bench) -> Iterator[Case]:
    """Compute targets and losses with gradients: the time, and what a GPU would be asked for."""
    sizes = bench.sizes
    batch = bench.draw(2, sizes.image, sizes.train_boxes)
    works = _of_each(bench.peers, make_losses, batch, bench.draw_maps(batch))
    yield bench.time("losses", f"2 images of {sizes.train_boxes} boxes", works, images=2)
    for images in (2, sizes.large_batch):
        batch = bench.draw(images, sizes.train_image, sizes.train_boxes)
        works = _of_each(bench.peers, make_losses, batch, bench.draw_maps(batch))
        for name, count in (("operations", count_operations), ("waits", count_host_waits)):
            values = {key: [float(count(work))] for key, work in works.items()}
            yield Case("calls", f"{name}, {images} images", "calls", values, images=images)


def measure_selection(bench: Bench) -> Iterator[Case]:
    """Select detections of one image: as an untrained detector, and with many candidates."""
    batch, count = bench.draw(1, bench.sizes.image, 1), bench.sizes.candidates
    works = _of_each(bench.peers, make_selection, batch, bench.draw_maps(batch))
    yield bench.time("selection", "idle", works)
    peers, maps = build_peers(bench.cfg), bench.draw_maps(batch, count)
    root_thresh = find_root_thresh(maps, count)
    for peer in peers:  # the same number of candidates passes all thresholds
        peer.set_score_thresh(0.05 if isinstance(peer, Ours) else root_thresh)
    works = _of_each(peers, make_selection, batch, maps)
    yield bench.time("selection", f"busy, {count} candidates", works)


def find_root_thresh(maps: Maps, num_candidates: int) -> float:
    """Find the threshold of sqrt(class score * centerness) that this many candidates pass."""
    cls_logits, _, centerness = maps
    products = [x.sigmoid() * y.sigmoid() for x, y in zip(cls_logits, centerness, strict=True)]
    ordered = torch.cat([x.flatten() for x in products]).sqrt().sort(descending=True).values
    return float(ordered[num_candidates - 1 : num_candidates + 1].double().mean())


def measure_inference(bench: Bench) -> Iterator[Case]:
    """Images to detections: time and memory of the whole model."""
    for images in [1] if bench.device == "cpu" else [1, bench.sizes.large_batch]:
        batch = bench.draw(images, bench.sizes.image, 1)
        yield from _measure_model(bench, "inference", make_inference, batch)


def measure_training(bench: Bench) -> Iterator[Case]:
    """Training steps: time and memory of the whole model."""
    sizes = bench.sizes
    batches = [(2, sizes.train_image)]
    if bench.device != "cpu":
        batches.append((sizes.large_batch, sizes.image))
    for images, size in batches:
        batch = bench.draw(images, size, sizes.train_boxes)
        make = partial(make_training_step, cfg=bench.cfg)
        yield from _measure_model(bench, "training", make, batch)


def _measure_model(
    bench: Bench, table: str, make: Callable[..., Work], batch: Batch
) -> Iterator[Case]:
    works = {}
    for peer in bench.peers:
        works[peer.name] = make(peer, batch)
        if table == "inference" or peer.trains_in_bf16:
            works[f"{peer.name}, bf16"] = make(peer, batch, is_bf16=True)
    column = _describe(batch)
    yield bench.time(table, column, works, images=len(batch.instances))
    yield bench.peaks("model_memory", f"{table}, {column}", works)


def _describe(batch: Batch) -> str:
    count, (height, width) = len(batch.instances), batch.instances[0].image_size
    return f"{count} image{'s' if count > 1 else ''} of {height}x{width}"


def measure_settings(bench: Bench) -> Iterator[Case]:
    """Ours in float32 with other settings."""
    sizes, default = bench.sizes, bench.peers[0]
    variants = {default.name: default}
    for setting, opts in _SETTINGS.items():
        if setting == "compiled" and sizes == QUICK:  # takes minutes
            continue
        variant = Ours.build(make_cfg(sizes, bench.device, *opts))
        variant.adopt_weights(default.model)
        variants[f"{default.name}, {setting}"] = variant
    batch = bench.draw(1, sizes.image, 1)
    works = {name: make_inference(variant, batch) for name, variant in variants.items()}
    yield bench.time("settings", f"inference, {_describe(batch)}", works)
    batch = bench.draw(2, sizes.train_image, sizes.train_boxes)
    works = {
        name: make_training_step(variant, batch, bench.cfg) for name, variant in variants.items()
    }
    yield bench.time("settings", f"training, {_describe(batch)}", works, images=2)
    yield bench.peaks("settings_memory", f"training, {_describe(batch)}", works)


def measure_stages(bench: Bench) -> Iterator[Case]:
    """Time the stages of ours, in inference and in training steps."""
    sizes, ours = bench.sizes, bench.peers[0]
    batches = bench.draw(1, sizes.image, 1), bench.draw(2, sizes.train_image, sizes.train_boxes)
    works = {
        f"inference, {_describe(batches[0])}": make_inference(ours, batches[0]),
        f"training, {_describe(batches[1])}": make_training_step(ours, batches[1], bench.cfg),
    }
    for column, work in works.items():
        stages = time_stages(ours.model, work, bench.device, bench.repeats)
        yield Case("stages", column, "ms", stages)


def measure_growth(bench: Bench) -> Iterator[Case]:
    """Measure the smallest and the largest image, and number of classes."""
    sizes = bench.sizes
    for height, width in sizes.growth_images:
        batch = bench.draw(2, (height, width), sizes.train_boxes)
        kwargs = {"column": f"{height}x{width}", "x": height * width}
        works = _of_each(bench.peers, make_assignment, batch)
        yield bench.time("area_targets", works=works, **kwargs)
        works = _of_each(bench.peers, make_losses, batch, bench.draw_maps(batch))
        yield bench.time("area_losses", works=works, **kwargs)
    for count in sizes.growth_classes:
        opts = f"{sizes.opts} MODEL.FCOS.NUM_CLASSES {count}"
        one = dataclasses.replace(bench, sizes=dataclasses.replace(sizes, opts=opts))
        batch = one.draw(2, sizes.image, sizes.train_boxes)
        works = _of_each(one.peers, make_losses, batch, one.draw_maps(batch))
        yield one.time("classes_losses", f"{count} classes", works, x=count)


GROUPS: dict[str, Callable[[Bench], Iterator[Case]]] = {
    "targets": measure_targets,
    "losses": measure_losses,
    "selection": measure_selection,
    "inference": measure_inference,
    "training": measure_training,
    "settings": measure_settings,
    "stages": measure_stages,
    "loader": lambda bench: measure_loader(bench.cfg, bench.sizes, bench.repeats),
    "growth": measure_growth,
}


def measure(bench: Bench, groups: list[str], path: Path) -> None:
    """
    Measure groups and write them into a file, each as soon as it is complete.

    What the file has of other groups is kept if it was measured on the same machine and sizes.
    """
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    run_of = {"machine": describe_machine(bench.device), "is_quick": bench.sizes == QUICK}
    if any(results.get(key) != value for key, value in run_of.items()):
        results = {**run_of, "groups": {}}
    for group in groups:
        load, cases = LoadOfOthers(), []
        for case in GROUPS[group](bench):
            print(f"{case.table}: {case.column}")
            for row in case.values:
                print(f"  {row:28} {case.median(row):12.2f} {case.unit} {case.format_ratio(row)}")
            cases.append(dataclasses.asdict(case))
        results["groups"][group] = {"load_of_others": load.share(), "cases": cases}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that only this command has."""
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(GROUPS),
        default=list(GROUPS),
        metavar="GROUP",
        help=", ".join(GROUPS),
    )
    parser.add_argument("--repeats", type=int, default=7, help="rounds of each measurement")


def run(args: argparse.Namespace) -> None:
    """Measure what the flags name."""
    bench = Bench(QUICK if args.quick else FULL, args.device, args.repeats)
    measure(bench, args.only, args.output_dir / f"results-{args.device}.json")
