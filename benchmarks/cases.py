"""The cases of the benchmark: each group yields the figures of its cases, one after the other."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from adapters import ADAPTERS, Adapter, Ours
from contest import Bench, Case
from counting import count_operations, count_values_read
from data_loading import loader, mapper
from measuring import Work, time_imports
from torch import Tensor
from workloads import Batch, draw_maps, make_cfg

__all__ = ["GROUPS", "SETTINGS"]

_PAIR_BYTES = 48  # that peers hold for each (location, box) pair: about a dozen floats
# Those that change speed or memory alone, each against the defaults.
SETTINGS: dict[str, tuple[Any, ...]] = {
    "not folded": ("MODEL.FCOS.FOLD_FROZEN_BN", False),
    "not channels_last": ("MODEL.FCOS.CHANNELS_LAST", False),
    "neither": ("MODEL.FCOS.FOLD_FROZEN_BN", False, "MODEL.FCOS.CHANNELS_LAST", False),
    "towers checkpointed": ("MODEL.FCOS.CHECKPOINT_TOWERS", True),
    "compiled": ("MODEL.FCOS.COMPILE", True),
}
_IMPORTS = {
    "fcos_d2": "fcos_d2",
    "detectron2": "detectron2.modeling.meta_arch.fcos",
    "torchvision": "torchvision.models.detection.fcos",
}


def targets(bench: Bench) -> Iterator[Case]:
    """Assignment for a batch; flat in the number of boxes?"""
    sizes = bench.sizes
    case: Case | None = None
    for before, count in pairwise((0, *sizes.boxes)):
        batch = bench.draw(sizes.targets_batch, sizes.image, count)
        locations = sum(height * width for height, width in batch.feature_sizes)
        works, skipped = {}, {}
        for adapter in bench.adapters:
            reason = None
            if case is not None and not isinstance(adapter, Ours):
                reason = case.skipped.get(adapter.name) or bench.reason_to_skip(
                    case.median_of(adapter.name) * count / before, locations * count * _PAIR_BYTES
                )
            if reason is None:
                works[adapter.name] = adapter.targets(batch)
            else:
                skipped[adapter.name] = reason
        name = f"{count} boxes an image"
        case = bench.time(
            "targets", name, works, x=count, images=sizes.targets_batch, skipped=skipped
        )
        yield case


def targets_memory(bench: Bench) -> Iterator[Case]:
    """Of one image; of ours also for the batch, and without centre sampling."""
    sizes = bench.sizes
    for count in sizes.memory_boxes:
        batch = bench.draw(1, sizes.image, count)
        works = {adapter.name: adapter.targets(batch) for adapter in bench.adapters}
        yield bench.peaks("targets_memory", f"{count} boxes, one image", works, x=count)
    count, images = sizes.memory_boxes[-1], sizes.targets_batch
    batch = bench.draw(images, sizes.image, count)
    name = f"{count} boxes an image, batch of {images}"
    work = bench.adapters[0].targets(batch)
    yield bench.peaks("targets_memory", name, {Ours.name: work}, images=images)
    cfg = make_cfg(sizes, bench.device, "MODEL.FCOS.CENTER_SAMPLING_RADIUS", 0.0)
    work = Ours(Ours.build(cfg)).targets(batch)
    yield bench.peaks("targets_memory", f"{name}, whole box", {Ours.name: work}, images=images)


def losses(bench: Bench) -> Iterator[Case]:
    sizes = bench.sizes
    batch = bench.draw(2, sizes.image, sizes.train_boxes)
    maps = draw_maps(batch, bench.num_classes)
    works = {adapter.name: adapter.losses(batch, maps) for adapter in bench.adapters}
    name = f"with targets, forward + backward, 2 images of {sizes.train_boxes} boxes"
    yield bench.time("losses", name, works, images=2)


def calls(bench: Bench) -> Iterator[Case]:
    """Of targets and losses, forward and backward: what a GPU would launch, and wait for."""
    sizes = bench.sizes
    for images in (2, sizes.targets_batch):
        batch = bench.draw(images, sizes.train_image, sizes.train_boxes)
        maps = draw_maps(batch, bench.num_classes)
        works = {adapter.name: adapter.losses(batch, maps) for adapter in bench.adapters}
        for name, count in (
            ("operations", count_operations),
            ("values read", count_values_read),
        ):
            values = {key: [float(count(work))] for key, work in works.items()}
            yield Case("calls", f"{name}, {images} images", "calls", values, images=images)


def selection(bench: Bench) -> Iterator[Case]:
    """Busy: the thresholds let equally many candidates of all pass. Idle: a new detector."""
    batch = bench.draw(1, bench.sizes.image, 1)
    maps = draw_maps(batch, bench.num_classes)
    works = {adapter.name: adapter.selection(batch, maps) for adapter in bench.adapters}
    yield bench.time("selection", "idle", works)
    yield _busy_selection(bench, batch, "selection", "busy")


def _busy_selection(bench: Bench, batch: Batch, group: str, name: str, **extra: Any) -> Case:
    count = bench.sizes.candidates
    maps = draw_maps(batch, bench.num_classes, count)
    root = _root_thresh(maps, count)
    with contextlib.ExitStack() as thresholds:
        for adapter in bench.adapters:
            thresholds.enter_context(adapter.score_thresh(0.05, root))
        works = {adapter.name: adapter.selection(batch, maps) for adapter in bench.adapters}
        return bench.time(group, f"{name}, {count} candidates", works, **extra)


def _root_thresh(maps: list[list[Tensor]], num_candidates: int) -> float:
    """What so many of sqrt(class score * centre-ness) are above."""
    cls_logits, _, centerness = maps
    products = [x.sigmoid() * y.sigmoid() for x, y in zip(cls_logits, centerness, strict=True)]
    ordered = torch.cat([x.flatten() for x in products]).sqrt().sort(descending=True).values
    return float(ordered[num_candidates - 1 : num_candidates + 1].double().mean())


def inference(bench: Bench) -> Iterator[Case]:
    sizes = bench.sizes
    for images in [1] if bench.device == "cpu" else [1, sizes.cuda_batch]:
        works, _ = _of_all(bench, "inference", bench.draw(images, sizes.image, 1))
        yield bench.time("inference", _described(images, sizes.image), works, images=images)


def training(bench: Bench) -> Iterator[Case]:
    for images, size in _training_batches(bench):
        batch = bench.draw(images, size, bench.sizes.train_boxes)
        works, skipped = _of_all(bench, "training_step", batch)
        name = _described(images, size)
        yield bench.time("training", name, works, images=images, skipped=skipped)


def model_memory(bench: Bench) -> Iterator[Case]:
    """Whole model: activations and gradients, above the weights."""
    sizes = bench.sizes
    works, _ = _of_all(bench, "inference", bench.draw(1, sizes.image, 1))
    yield bench.peaks("model_memory", f"inference, {_described(1, sizes.image)}", works)
    for images, size in _training_batches(bench):
        batch = bench.draw(images, size, sizes.train_boxes)
        works, skipped = _of_all(bench, "training_step", batch)
        name = f"training step, {_described(images, size)}"
        yield bench.peaks("model_memory", name, works, images=images, skipped=skipped)


def settings(bench: Bench) -> Iterator[Case]:
    """Ours with each of the settings, beside its defaults; float32."""
    sizes, default = bench.sizes, bench.adapters[0]
    variants, skipped = {default.name: default}, {}
    for setting, opts in bench.settings.items():
        name = f"{default.name}, {setting}"
        if "MODEL.FCOS.COMPILE" in opts and bench.device == "cpu" and shutil.which("g++") is None:
            skipped[name] = "there is no C++ compiler"
            continue
        variants[name] = Ours(Ours.build(make_cfg(sizes, bench.device, *opts)))
        variants[name].adopt_weights(default.model)
    batch = bench.draw(1, sizes.image, 1)
    works = {name: variant.inference(batch) for name, variant in variants.items()}
    name = f"inference, {_described(1, sizes.image)}"
    yield bench.time("settings", name, works, skipped=skipped)
    batch = bench.draw(2, sizes.train_image, sizes.train_boxes)
    works = {name: variant.training_step(batch) for name, variant in variants.items()}
    name = f"training step, {_described(2, sizes.train_image)}"
    yield bench.time("settings", name, works, images=2)
    yield bench.peaks("settings_memory", name, works, images=2)


def _training_batches(bench: Bench) -> list[tuple[int, tuple[int, int]]]:
    batches = [(2, bench.sizes.train_image)]
    if bench.device != "cpu":
        batches.append((bench.sizes.cuda_batch, bench.sizes.image))
    return batches


def _of_all(bench: Bench, method: str, batch: Batch) -> tuple[dict[str, Work], dict[str, str]]:
    """Of each detector in each precision; what float32 gets is named by the detector alone."""
    works, skipped = {}, {}
    for adapter in bench.adapters:
        for precision in bench.precisions:
            name = adapter.name if precision == "float32" else f"{adapter.name}, {precision}"
            if method == "training_step" and precision in adapter.untrainable:
                skipped[name] = adapter.untrainable[precision]
            else:
                works[name] = getattr(adapter, method)(batch, precision)
    return works, skipped


def _described(images: int, image_size: tuple[int, int]) -> str:
    height, width = image_size
    return f"{images} image{'s' if images > 1 else ''} of {height}x{width}"


def imports(bench: Bench) -> Iterator[Case]:
    values = time_imports(_IMPORTS, bench.repeats)
    yield Case("imports", "on top of import torch, a new process", "ms", values)


def build(bench: Bench) -> Iterator[Case]:
    cfg = make_cfg(bench.sizes, bench.device)

    def work_of(adapter: type[Adapter]) -> Work:
        return Work(lambda _: adapter.build(cfg))

    works = {adapter.name: work_of(adapter) for adapter in ADAPTERS}
    yield bench.time("build", "whole model, random weights", works)


def area(bench: Bench) -> Iterator[Case]:
    """What grows with the image: targets, losses and selection, convolutions left out."""
    sizes = bench.sizes
    for height, width in sizes.growth_images:
        extra = {"x": height * width, "images": 2}
        name = f"{height}x{width}"
        batch = bench.draw(2, (height, width), sizes.train_boxes)
        works = {adapter.name: adapter.targets(batch) for adapter in bench.adapters}
        yield bench.time("area_targets", name, works, **extra)
        maps = draw_maps(batch, bench.num_classes)
        works = {adapter.name: adapter.losses(batch, maps) for adapter in bench.adapters}
        yield bench.time("area_losses", name, works, **extra)
        works = {adapter.name: adapter.selection(batch, maps) for adapter in bench.adapters}
        yield bench.time("area_selection", name, works, **extra)


def classes(bench: Bench) -> Iterator[Case]:
    """What grows with the classes, the last convolution left out."""
    sizes = bench.sizes
    for count in sizes.growth_classes:
        opts = (*sizes.opts, "MODEL.FCOS.NUM_CLASSES", count)
        of_count = dataclasses.replace(bench, sizes=dataclasses.replace(sizes, opts=opts))
        batch = of_count.draw(2, sizes.image, sizes.train_boxes)
        maps = draw_maps(batch, count)
        works = {adapter.name: adapter.losses(batch, maps) for adapter in of_count.adapters}
        name, extra = f"{count} classes", {"x": count, "images": 2}
        yield of_count.time("classes_losses", name, works, **extra)
        yield _busy_selection(of_count, batch, "classes_selection", name, **extra)


GROUPS: dict[str, Callable[[Bench], Iterator[Case]]] = {
    "targets": targets,
    "targets_memory": targets_memory,
    "losses": losses,
    "calls": calls,
    "selection": selection,
    "inference": inference,
    "training": training,
    "model_memory": model_memory,
    "settings": settings,
    "imports": imports,
    "build": build,
    "mapper": mapper,
    "loader": loader,
    "area": area,
    "classes": classes,
}
