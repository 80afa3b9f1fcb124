"""
Three ways to spare small batches the launches of backbone and head, side by side with eager.

    python benchmarks/gpu/graphs.py [--work "inference 1"] [--ways eager graph]

- reduce-overhead: torch.compile(mode="reduce-overhead"), PyTorch's own CUDA graphs;
- graph: a CUDA graph of the eager kernels;
- graph of compiled: a CUDA graph of compiled kernels.

Each row is a whole inference (images to detections) or training step (to the optimizer's step), the
network in bfloat16 under autocast; the ways are timed in turn. Prints milliseconds, the sum of the
kernels of a call, and how long a way took to prepare.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from launches import (
    Network,
    autocast_uncached,
    build_model_with_finite_maps,
    kernel_milliseconds,
)
from measuring import Work, median, time_interleaved
from workloads import FULL, draw_batch

__all__ = ["WAYS", "WORKS"]

_ROUNDS = 7
_WARM_UPS = 4
WAYS = ("eager", "reduce-overhead", "graph", "graph of compiled")
# Name -> (trains, images, size).
WORKS = {
    "inference 1": (False, 1, FULL.image),
    "training 2": (True, 2, FULL.train_image),
    "inference 16": (False, 16, FULL.image),
    "training 16": (True, 16, FULL.image),
}

# From images to the tensors of the head, as Network gives them.
Run = Callable[[Tensor], tuple[Tensor, ...]]


def make_run(way: str, network: Network, images: Tensor, trains: bool) -> Any:
    """Prepare one of the ways for images of this shape; a ``Run``."""
    if way == "eager":
        return network
    if way == "reduce-overhead":
        return torch.compile(network, mode="reduce-overhead", dynamic=False)
    inner = torch.compile(network, dynamic=False) if way == "graph of compiled" else network
    for _ in range(_WARM_UPS if way == "graph of compiled" else 0):  # compiles outside of a capture
        outputs = inner(images)
        if trains:
            torch.autograd.grad(
                [x.float().sum() for x in outputs],
                [x for x in network.parameters() if x.requires_grad],
            )
    if trains:
        return torch.cuda.make_graphed_callables(inner, (images,))
    return _capture(inner, images)


def _capture(run: Run, images: Tensor) -> Run:
    static = images.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            run(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run(static)

    def replay(images: Tensor) -> tuple[Tensor, ...]:
        static.copy_(images)
        graph.replay()
        return outputs

    return replay


def make_inference(way: str, num_images: int, image_size: tuple[int, int]) -> Callable[[], Any]:
    """Prepare images to detections."""
    model = build_model_with_finite_maps().eval()
    images = draw_batch(num_images, image_size, 1, 80, "cuda").draw_images()
    inputs = [{"image": image} for image in images]
    network = Network(model)
    with torch.no_grad(), autocast_uncached():
        run = make_run(way, network, model.preprocess_image(inputs).tensor, trains=False)

    @torch.no_grad()
    def infer() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        batch = model.preprocess_image(inputs)
        with autocast_uncached():
            outputs = run(batch.tensor)
        model.dense_head.detect(network.predictions_of(outputs), batch.image_sizes)

    return infer


def make_training(way: str, num_images: int, image_size: tuple[int, int]) -> Callable[[], Any]:
    """Prepare a training step."""
    batch = draw_batch(num_images, image_size, FULL.train_boxes, 80, "cuda")
    pairs = zip(batch.draw_images(), batch.instances, strict=True)
    inputs = [{"image": image, "instances": x} for image, x in pairs]
    model = build_model_with_finite_maps().train()
    optimizer = torch.optim.SGD(
        [x for x in model.parameters() if x.requires_grad], lr=1e-6, momentum=0.9, fused=True
    )
    network = Network(model)
    with autocast_uncached():
        run = make_run(way, network, model.preprocess_image(inputs).tensor, trains=True)

    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad(set_to_none=way in ("eager", "reduce-overhead"))
        with autocast_uncached():
            images = model.preprocess_image(inputs)
            predictions = network.predictions_of(run(images.tensor))
            losses = model.dense_head.compute_losses(
                predictions, batch.instances, images.image_sizes
            )
        sum(losses.values()).backward()
        optimizer.step()

    return step


def _work_of(call: Callable[[], Any]) -> Work:
    return Work(lambda _: call())


def measure(name: str, ways: list[str]) -> None:
    """Print one line for each way."""
    trains, num_images, image_size = WORKS[name]
    works: dict[str, Work] = {}
    seconds: dict[str, float] = {}
    for way in ways:
        start = time.perf_counter()
        try:
            call = (make_training if trains else make_inference)(way, num_images, image_size)
            for _ in range(_WARM_UPS):
                call()
            torch.cuda.synchronize()
        except (
            Exception
        ) as error:  # a way may not work in this version of PyTorch: said, not hidden
            text = " ".join(str(error).split())[:300]
            print(f"{name}, {way}: {type(error).__name__}: {text}", flush=True)
            continue
        works[way] = _work_of(call)
        seconds[way] = time.perf_counter() - start
    times = time_interleaved(works, _ROUNDS, "cuda")
    for way, work in works.items():
        kernels = kernel_milliseconds(partial(work.run, None))
        print(
            f"{name}, {way}: {median(times[way]):.2f} ms, kernels {kernels:.2f}, prepared in "
            f"{seconds[way]:.0f} s",
            flush=True,
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.error("torch sees no GPU here")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    for name in args.work:
        measure(name, args.ways)
        torch.compiler.reset()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
