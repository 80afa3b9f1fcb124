"""Measure time, memory and operations of ours, detectron2's and torchvision's FCOS."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import gpu_models
import measuring
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from measuring import Work
from page import Case
from peers import Maps, Ours, Peer, build_peers
from torch import Tensor
from workloads import FULL, QUICK, Batch, Size, Sizes, draw_batch, draw_maps, make_cfg

from fcos_d2.atomic_write import replacing

_SETTINGS = {
    "not folded": "MODEL.FCOS.FOLD_FROZEN_BN False",
    "not channels_last": "MODEL.FCOS.CHANNELS_LAST False",
    "neither": "MODEL.FCOS.FOLD_FROZEN_BN False MODEL.FCOS.CHANNELS_LAST False",
    "towers checkpointed": "MODEL.FCOS.CHECKPOINT_TOWERS True",
    "compiled": "MODEL.FCOS.COMPILE True",
}


@dataclasses.dataclass
class Bench:
    """What the groups share: the sizes, the device, the number of rounds, and the detectors."""

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

    def draw(self, num_images: int, image_size: Size, num_boxes: int) -> Batch:
        """Draw the annotations of a batch."""
        num_classes = self.cfg.MODEL.FCOS.NUM_CLASSES
        return draw_batch(num_images, image_size, num_boxes, num_classes, self.device)

    def time(self, table: str, column: str, calls: dict[str, Work], images: int = 1) -> Case:
        """Measure milliseconds."""
        return Case(
            table,
            column,
            "ms",
            measuring.time_interleaved(calls, self.repeats, self.device),
            images,
        )

    def measure_peaks(self, table: str, column: str, calls: dict[str, Work]) -> Case:
        """Measure peak memory."""
        values = {name: [measuring.peak_memory(work, self.device)] for name, work in calls.items()}
        return Case(table, column, "MB", values)


def make_assignment(peer: Peer, batch: Batch) -> Work:
    """Make the call from boxes to the class and the box of every location."""
    return Work(lambda _: peer.assign(batch))


def make_losses(peer: Peer, batch: Batch, maps: Maps) -> Work:
    """Make the call from boxes and raw maps to losses and the gradients of the maps."""

    def prepare() -> list[list[Tensor]]:
        peer.model.train()
        return [[x.requires_grad_() for x in levels] for levels in _copy(peer, maps)]

    def run(leaves: Maps) -> None:
        inputs = batch.images, batch.features, peer.join_maps(leaves), batch.instances
        with EventStorage():
            losses = peer.model.forward_training(*inputs)
        sum(losses.values()).backward()

    return Work(run, prepare)


def make_selection(peer: Peer, batch: Batch, maps: Maps) -> Work:
    """Make the call from raw maps to detections."""

    def prepare() -> list[list[Tensor]]:
        peer.model.eval()
        return _copy(peer, maps)

    @torch.no_grad()
    def run(copies: Maps) -> Any:
        inputs = batch.images, batch.features, peer.join_maps(copies)
        return peer.model.forward_inference(*inputs)

    return Work(run, prepare)


def make_inference(peer: Peer, batch: Batch, is_bf16: bool = False) -> Work:
    """Make the call from images to detections."""
    inputs = [{"image": x["image"]} for x in batch.draw_inputs()]

    def prepare() -> None:
        if peer.model.training:  # users set the mode once, not in every call
            peer.model.eval()

    @torch.no_grad()
    def run(_: None) -> Any:
        with _autocast(batch, is_bf16):
            return peer.model(inputs)

    return Work(run, prepare)


def make_training_step(peer: Peer, batch: Batch, cfg: CfgNode, is_bf16: bool = False) -> Work:
    """Make the call from images to a step of the optimizer; the LR of ``cfg`` must be 0."""
    inputs, optimizer = batch.draw_inputs(), peer.build_optimizer(cfg)

    def prepare() -> None:
        peer.model.train()
        optimizer.zero_grad(set_to_none=True)

    def run(_: None) -> None:
        with EventStorage(), _autocast(batch, is_bf16):
            losses = sum(peer.model(inputs).values())
        losses.backward()
        optimizer.step()

    return Work(run, prepare)


def _copy(peer: Peer, maps: Maps) -> list[list[Tensor]]:
    """Copy raw maps to the memory format that the detector's own maps have."""
    return [[x.clone(memory_format=peer.memory_format) for x in levels] for levels in maps]


def _autocast(batch: Batch, is_bf16: bool) -> torch.autocast:
    """Enter bfloat16, or make no change."""
    device = batch.features[0].device.type
    return torch.autocast(device, torch.bfloat16, enabled=is_bf16)


def _each(peers: list[Peer], make: Callable[..., Work], *args: Any) -> dict[str, Work]:
    """Make the call of each peer."""
    return {peer.name: make(peer, *args) for peer in peers}


def measure_targets(bench: Bench) -> Iterator[Case]:
    """Assign targets; memory is that of one image, as the others go image by image."""
    sizes = bench.sizes
    for count in sizes.boxes:
        peers = bench.peers if count <= sizes.most_boxes_of_others else bench.peers[:1]
        column = f"{count} boxes an image"
        batch = bench.draw(sizes.large_batch, sizes.image, count)
        yield bench.time("targets", column, _each(peers, make_assignment, batch))
        calls = _each(peers, make_assignment, bench.draw(1, sizes.image, count))
        yield bench.measure_peaks("targets_memory", column, calls)


def measure_losses(bench: Bench) -> Iterator[Case]:
    """Compute targets and losses with gradients: the time, and what a GPU would have to do."""
    sizes = bench.sizes
    columns = [(size, 80) for size in sizes.loss_images]
    for size, num_classes in [*columns, *((sizes.image, x) for x in sizes.loss_classes)]:
        peers = build_peers(make_cfg(sizes, bench.device, "MODEL.FCOS.NUM_CLASSES", num_classes))
        batch = draw_batch(2, size, sizes.train_boxes, num_classes, bench.device)
        calls = _each(peers, make_losses, batch, draw_maps(batch))
        yield bench.time("losses", f"{batch.describe()}, {num_classes} classes", calls)
    for images in (2, sizes.large_batch):
        batch = bench.draw(images, sizes.train_image, sizes.train_boxes)
        calls = _each(bench.peers, make_losses, batch, draw_maps(batch))
        for table, count_in in (
            ("operations", measuring.count_operations),
            ("waits", measuring.count_host_waits),
        ):
            values = {name: [float(count_in(work))] for name, work in calls.items()}
            yield Case(table, f"{images} images", "count", values)


def measure_selection(bench: Bench) -> Iterator[Case]:
    """Select detections of one image: as an untrained detector, and with many candidates."""
    batch, count = bench.draw(1, bench.sizes.image, 1), bench.sizes.candidates
    calls = _each(bench.peers, make_selection, batch, draw_maps(batch))
    yield bench.time("selection", "idle", calls)
    peers, maps = build_peers(bench.cfg), draw_maps(batch, count)
    root_thresh = find_root_thresh(maps, count)
    for peer in peers:  # the same number of candidates passes all thresholds
        peer.set_score_thresh(0.05 if isinstance(peer, Ours) else root_thresh)
    calls = _each(peers, make_selection, batch, maps)
    yield bench.time("selection", f"busy, {count} candidates", calls)


def find_root_thresh(maps: Maps, num_candidates: int) -> float:
    """Find the threshold of sqrt(class score * center-ness) that this many candidates pass."""
    cls_logits, _, centerness = maps
    products = [x.sigmoid() * y.sigmoid() for x, y in zip(cls_logits, centerness, strict=True)]
    ordered = torch.cat([x.flatten() for x in products]).sqrt().sort(descending=True).values
    return float(ordered[num_candidates - 1 : num_candidates + 1].double().mean())


def measure_model(bench: Bench) -> Iterator[Case]:
    """Measure inference and training steps: time and memory of the whole model."""
    if bench.device == "cuda":
        yield from gpu_models.measure_models(bench)
        yield from gpu_models.measure_memory(bench)
        return
    sizes = bench.sizes
    make_step = partial(make_training_step, cfg=bench.cfg)
    rows: list[tuple[str, Callable[..., Work], Batch]] = [
        ("inference", make_inference, bench.draw(1, sizes.image, 1)),
        ("training", make_step, bench.draw(2, sizes.train_image, sizes.train_boxes)),
    ]
    for table, make, batch in rows:
        calls = _each(bench.peers, make, batch)
        for peer in bench.peers:
            if table == "inference" or peer.trains_in_bf16:
                calls[f"{peer.name}, bf16"] = make(peer, batch, is_bf16=True)
        yield bench.time(table, batch.describe(), calls, images=len(batch.instances))
        yield bench.measure_peaks("model_memory", f"{table}, {batch.describe()}", calls)


def measure_settings(bench: Bench) -> Iterator[Case]:
    """Measure ours in float32 with other settings."""
    sizes, variants = bench.sizes, {Ours.name: bench.peers[0]}
    for setting, opts in _SETTINGS.items():
        if setting != "compiled" or sizes != QUICK:  # compiling takes minutes
            variant = Ours.build(make_cfg(sizes, bench.device, *opts.split()))
            variant.adopt_weights(bench.peers[0].model)
            variants[f"{Ours.name}, {setting}"] = variant
    batch = bench.draw(1, sizes.image, 1)
    calls = {name: make_inference(x, batch) for name, x in variants.items()}
    yield bench.time("settings", f"inference, {batch.describe()}", calls)
    batch = bench.draw(2, sizes.train_image, sizes.train_boxes)
    calls = {name: make_training_step(x, batch, bench.cfg) for name, x in variants.items()}
    yield bench.time("settings", f"training, {batch.describe()}", calls, images=2)
    yield bench.measure_peaks("settings_memory", f"training, {batch.describe()}", calls)


def measure_parts(bench: Bench) -> Iterator[Case]:
    """Measure the parts of ours in an inference."""
    ours, batch = bench.peers[0], bench.draw(1, bench.sizes.image, 1)
    model = ours.model.eval()
    images = model.preprocess_image(batch.draw_inputs()).tensor
    with torch.no_grad():
        maps = model.backbone(images)
        features = [maps[name] for name in model.head_in_features]
        calls = {
            "backbone": Work(lambda _: model.backbone.bottom_up(images)),
            "backbone and neck": Work(lambda _: model.backbone(images)),
            "head": Work(lambda _: model.head(features)),
            "selection, idle": make_selection(ours, batch, draw_maps(batch)),
            "whole": make_inference(ours, batch),
        }
        case = bench.time("parts", batch.describe(), calls)
    yield case


GROUPS: dict[str, Callable[[Bench], Iterator[Case]]] = {
    "targets": measure_targets,
    "losses": measure_losses,
    "selection": measure_selection,
    "model": measure_model,
    "settings": measure_settings,
    "parts": measure_parts,
}


def measure(bench: Bench, groups: list[str], path: Path) -> None:
    """Measure groups into a file, which keeps others of the same machine and sizes."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    run_of = {"machine": measuring.describe_machine(bench.device), "is_quick": bench.sizes == QUICK}
    if any(results.get(key) != value for key, value in run_of.items()):
        results = {**run_of, "groups": {}}
    for group in groups:
        before, cases = measuring.read_processor_seconds(), []
        for case in GROUPS[group](bench):
            texts = (f"{x} {case.median(x):.2f} {case.unit}" for x in case.values)
            print(f"{case.table}, {case.column}:", *texts, sep="\n    ", flush=True)
            cases.append(dataclasses.asdict(case))
        total, of_others = np.subtract(measuring.read_processor_seconds(), before)
        load = max(of_others, 0.0) / max(total, 1e-9)
        results["groups"][group] = {"load_of_others": load, "cases": cases}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")


def run(args: argparse.Namespace) -> None:
    """Measure the groups that the flags name."""
    bench = Bench(QUICK if args.quick else FULL, args.device, args.repeats)
    measure(bench, args.only, args.output_dir / f"results-{args.device}.json")
