"""Measure whole models on a GPU: with CUDA graphs, compiled or neither, in all precisions."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import measuring
import torch
from detectron2.config import CfgNode
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils.events import EventStorage
from measuring import Work
from page import Case
from peers import Ours, Peer, Torchvision, build_peers
from workloads import Batch, Sizes, draw_batch, make_cfg

# How fcos_d2 runs, and the settings for it.
MODES = {
    "fcos_d2": "",
    "fcos_d2, graphs": "MODEL.FCOS.CUDA_GRAPHS all",
    "fcos_d2, graphs, compiled": "MODEL.FCOS.CUDA_GRAPHS all MODEL.FCOS.COMPILE True",
}
_STEPS = 4  # training steps in a row; as in a training, the host does not wait for each


def damp(model: DenseDetector) -> None:
    """Scale the residual branches of random weights, with which maps would grow without bound."""
    for name, value in model.state_dict().items():
        if name.endswith("conv3.norm.weight"):
            value.mul_(0.3)


def build_ours(sizes: Sizes, device: str, mode: str) -> Ours:
    """Build fcos_d2 in one of the modes, with the weights of a seed."""
    torch.manual_seed(0)
    ours = Ours.build(make_cfg(sizes, device, *MODES[mode].split()))
    damp(ours.model)
    return ours


def make_inference(peer: Peer, batch: Batch, precision: str) -> Work:
    """Make the call from images to detections, as ``speed.make_inference`` does."""
    inputs = [{"image": x["image"]} for x in batch.draw_inputs()]

    @torch.no_grad()
    def run(_: None) -> Any:
        with use_precision(precision):
            return peer.model(inputs)

    return Work(run, lambda: set_mode(peer, False))


def make_steps(peer: Peer, batch: Batch, precision: str, cfg: CfgNode, steps: int = _STEPS) -> Work:
    """Make training steps in a row; the LR of ``cfg`` must be 0."""
    inputs, optimizer = batch.draw_inputs(), peer.build_optimizer(cfg)

    def run(_: None) -> None:
        for _step in range(steps):
            optimizer.zero_grad()
            with EventStorage(), use_precision(precision):
                losses = sum(peer.model(inputs).values())
            with use_precision(precision, autocasts=False):
                losses.backward()
            optimizer.step()

    return Work(run, lambda: set_mode(peer, True))


def set_mode(peer: Peer, is_training: bool) -> None:
    """Set the mode of a detector, if it has the other one."""
    if peer.model.training != is_training:
        peer.model.train(is_training)


@contextmanager
def use_precision(precision: str, autocasts: bool = True) -> Iterator[None]:
    """Compute in "float32", in "TF32", or in "bf16" by autocast (and in TF32 what is not cast)."""
    allows_tf32 = precision != "float32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allows_tf32
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.autocast(device, torch.bfloat16, enabled=autocasts and precision == "bf16"):
        yield


def measure_models(bench: Any) -> Iterator[Case]:
    """
    Measure inference and training steps of several batches in several precisions.

    Args:
        bench (speed.Bench): Sizes, device and number of rounds.
    """
    sizes, boxes = bench.sizes, bench.sizes.train_boxes
    works = (
        ("inference", (1, sizes.image)),
        ("inference", (2, sizes.image)),
        ("inference", (sizes.large_batch, sizes.image)),
        ("training", (2, sizes.train_image)),
        ("training", (sizes.large_batch, sizes.image)),
    )
    for precision in ("bf16", "TF32", "float32"):
        modes = [x for x in MODES if precision == "bf16" or "compiled" not in x]
        peers: dict[str, Peer] = {x: build_ours(sizes, bench.device, x) for x in modes}
        others = build_peers(make_cfg(sizes, bench.device))[1:]
        for other in others:
            damp(other.model)
        peers |= {other.name: other for other in others}
        for table, (count, size) in works:
            batch = draw_batch(count, size, boxes, bench.cfg.MODEL.FCOS.NUM_CLASSES, bench.device)
            make = make_inference if table == "inference" else partial(make_steps, cfg=bench.cfg)
            calls = {
                name: make(peer, batch, precision)
                for name, peer in peers.items()
                if table == "inference" or precision != "bf16" or peer.trains_in_bf16
            }
            if (table, count, precision) == ("inference", 1, "bf16"):
                compiled = _build_compiled(make_cfg(sizes, bench.device))
                calls["torchvision, compiled"] = make(compiled, batch, precision)
            yield from _measure(bench, table, f"{batch.describe()}, {precision}", calls, count)
        del peers, others
        gc.collect()
        torch.compiler.reset()
        if bench.device == "cuda":
            torch.cuda.empty_cache()


def _measure(
    bench: Any, table: str, column: str, calls: dict[str, Work], images: int
) -> Iterator[Case]:
    """Measure the time of calls, and the sum of their kernels."""
    steps = 1 if table == "inference" else _STEPS
    case = bench.time(table, column, calls, images)
    case.values = {name: [x / steps for x in times] for name, times in case.values.items()}
    yield case
    if bench.device == "cuda":
        values = {name: [measuring.sum_kernels(x) / steps] for name, x in calls.items()}
        yield Case(f"{table}_kernels", column, "ms", values)


def _build_compiled(cfg: CfgNode) -> Peer:
    """Build torchvision's FCOS with a compiled backbone and head."""
    peer = Torchvision.build(cfg)
    damp(peer.model)
    for network in (peer.model.backbone, peer.model.head):
        network.compile(dynamic=False)
    return peer


def measure_memory(bench: Any) -> Iterator[Case]:
    """
    Measure the memory that a GPU's allocator reserves, above that of the weights.

    Args:
        bench (speed.Bench): Sizes, device and number of rounds.
    """
    if bench.device != "cuda":
        return
    sizes = bench.sizes
    for table, count, size in (
        ("inference", 1, sizes.image),
        ("training", 2, sizes.train_image),
        ("training", sizes.large_batch, sizes.image),
    ):
        batch = draw_batch(
            count, size, sizes.train_boxes, bench.cfg.MODEL.FCOS.NUM_CLASSES, bench.device
        )
        values = {}
        for mode in list(MODES)[:2]:
            ours = build_ours(sizes, bench.device, mode)
            make = make_inference if table == "inference" else partial(make_steps, cfg=bench.cfg)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_reserved()
            work = make(ours, batch, "bf16")
            for _ in range(3):
                work.run(work.prepare())
            values[mode] = [(torch.cuda.max_memory_reserved() - before) / 1e6]
            del ours, work
            gc.collect()
            torch.cuda.empty_cache()
        yield Case("gpu_memory", f"{table}, {batch.describe()}, bf16", "MB", values)
