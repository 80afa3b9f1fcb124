"""
How long small batches wait for kernel launches: eager, sum of kernels, CUDA graph, compiled.

    python benchmarks/gpu/launches.py [--skip-compiled]

Convolutions in TF32, the network in bfloat16 under autocast. Prints a row for each workload.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measuring import Work, median, time_interleaved
from workloads import FULL, draw_batch, make_cfg

from fcos_d2 import DensePredictions

__all__ = [
    "Network",
    "autocast_uncached",
    "build_model_with_finite_maps",
    "kernel_milliseconds",
]

_ROUNDS = 10
_SIZES = ((1, FULL.image), (1, FULL.train_image), (16, FULL.image))
_TRAINING_SIZES = ((2, FULL.train_image), (16, FULL.image))
_COMPILED_SIZES = ((1, FULL.image), (1, FULL.train_image))


class Network(nn.Module):
    """Backbone and head of a model: a tensor in, tensors out, as a CUDA graph wants it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head, self.names = model.backbone, model.head, model.head_in_features

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(images)
        predictions = self.head([maps[name] for name in self.names])
        return (*predictions.cls_logits, *predictions.raw_ltrb, *predictions.quality_logits)

    def predictions_of(self, outputs: Any) -> DensePredictions:
        """The outputs of forward in the form of a head's."""
        num_levels = len(self.names)
        cls_logits, raw_ltrb, quality = (
            list(outputs[i : i + num_levels]) for i in range(0, 3 * num_levels, num_levels)
        )
        return DensePredictions(cls_logits, raw_ltrb, quality, extra={})


def _milliseconds(function: Callable[[], Any]) -> float:
    work = Work(lambda _: function())
    return median(time_interleaved({"": work}, _ROUNDS, "cuda")[""])


def kernel_milliseconds(function: Callable[[], Any], calls: int = 5) -> float:
    """Sum up the times of all kernels of a call."""
    function()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            function()
        torch.cuda.synchronize()
    total = sum(x.self_device_time_total for x in profiler.key_averages())
    return total / 1000 / calls


def build_model_with_finite_maps(*opts: Any) -> Any:
    """Build our detector on a GPU; random residual networks grow without bound."""
    torch.manual_seed(0)
    model = build_model(make_cfg(FULL, "cuda", *opts))
    for name, value in model.state_dict().items():
        if name.endswith("conv3.norm.weight"):
            value.mul_(0.3)
    return model


def autocast_uncached() -> torch.autocast:
    """Autocast to bfloat16; a graph must not hold weights that autocast has cached."""
    return torch.autocast("cuda", torch.bfloat16, cache_enabled=False)


@torch.no_grad()
def measure_inference(num_images: int, image_size: tuple[int, int]) -> str:
    model = build_model_with_finite_maps("MODEL.FCOS.INFERENCE_DTYPE", "bfloat16").eval()
    images = draw_batch(num_images, image_size, 1, 80, "cuda").draw_images()
    inputs = [{"image": image} for image in images]
    eager, kernels = (
        _milliseconds(lambda: model(inputs)),
        kernel_milliseconds(lambda: model(inputs)),
    )
    network = Network(model)
    static = model.preprocess_image(inputs).tensor
    with autocast_uncached():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                network(static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = network(static)

    def whole() -> None:
        batch = model.preprocess_image(inputs)
        static.copy_(batch.tensor)
        graph.replay()
        model.dense_head.detect(network.predictions_of(outputs), batch.image_sizes)

    return (
        f"eager {eager:.2f} ms, kernels {kernels:.2f}; backbone + head as a graph "
        f"{_milliseconds(graph.replay):.2f}, with post-processing {_milliseconds(whole):.2f}"
    )


def measure_training(num_images: int, image_size: tuple[int, int]) -> str:
    batch = draw_batch(num_images, image_size, FULL.train_boxes, 80, "cuda")
    pairs = zip(batch.draw_images(), batch.instances, strict=True)
    inputs = [{"image": image, "instances": x} for image, x in pairs]
    model = build_model_with_finite_maps().train()
    optimizer = torch.optim.SGD(
        [x for x in model.parameters() if x.requires_grad], lr=1e-6, momentum=0.9, fused=True
    )

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = sum(model(inputs).values())
        loss.backward()
        optimizer.step()

    eager, kernels = _milliseconds(step), kernel_milliseconds(step)
    network = Network(model)
    with autocast_uncached():
        graphed = torch.cuda.make_graphed_callables(
            network, (model.preprocess_image(inputs).tensor,)
        )

    def graphed_step() -> None:
        optimizer.zero_grad(set_to_none=False)
        with autocast_uncached():
            images = model.preprocess_image(inputs)
            predictions = network.predictions_of(graphed(images.tensor))
            losses = model.dense_head.compute_losses(
                predictions, batch.instances, images.image_sizes
            )
            loss = sum(losses.values())
        loss.backward()
        optimizer.step()

    return (
        f"eager {eager:.2f} ms, kernels {kernels:.2f}; with backbone + head as a graph "
        f"{_milliseconds(graphed_step):.2f}"
    )


@torch.no_grad()
def measure_compiled(num_images: int, image_size: tuple[int, int]) -> str:
    start = time.perf_counter()
    opts = ("MODEL.FCOS.COMPILE", True, "MODEL.FCOS.INFERENCE_DTYPE", "bfloat16")
    model = build_model_with_finite_maps(*opts).eval()
    images = draw_batch(num_images, image_size, 1, 80, "cuda").draw_images()
    inputs = [{"image": image} for image in images]
    eager, kernels = (
        _milliseconds(lambda: model(inputs)),
        kernel_milliseconds(lambda: model(inputs)),
    )
    return f"{eager:.2f} ms, kernels {kernels:.2f}; {time.perf_counter() - start:.0f} s in all"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--skip-compiled", action="store_true", help="saves minutes")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.error("torch sees no GPU here")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    works: list[tuple[str, Callable[[int, tuple[int, int]], str], Any]] = [
        ("inference", measure_inference, _SIZES),
        ("training step", measure_training, _TRAINING_SIZES),
        ("compiled inference", measure_compiled, () if args.skip_compiled else _COMPILED_SIZES),
    ]
    for name, measure, sizes in works:
        for num_images, (height, width) in sizes:
            row = measure(num_images, (height, width))
            print(f"{name} {num_images} x {height}x{width}: {row}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
