"""
Checks that need a GPU: whether it computes what the CPU does, and how long it waits for launches.

Small batches wait for kernel launches, which a CUDA graph or compiled kernels spare. Four ways are
timed in turn, in bfloat16: "eager"; "reduce-overhead", PyTorch's own CUDA graphs of compiled
kernels; "graph", a CUDA graph of the eager kernels; "graph of compiled" kernels.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from cases import Case
from detectron2.modeling import build_model
from measuring import Work, time_interleaved
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from workloads import FULL, STRIDES, Batch, draw_batch, make_cfg

from fcos_d2 import DensePredictions, FCOSAssigner, Levels

__all__ = ["add_arguments", "compare_models", "count_different_targets", "run", "time_ways"]

# Config file and overrides.
_MODELS = [
    ("fcos_R_50_FPN_1x.yaml", ""),
    ("fcos_R_50_FPN_1x_iccv.yaml", ""),
    ("fcos_R_50_FPN_1x.yaml", "MODEL.FCOS.USE_DEFORMABLE True"),
    ("fcos_R_50_FPN_1x.yaml", "MODEL.RESNETS.DEFORM_ON_PER_STAGE [False,True,True,True]"),
    ("own_data/fcos_efficientnet_lite0.yaml", "MODEL.TIMM.PRETRAINED False"),
]
_RADII = (1.5, 0.0, 0.7, 4.0, 16.0)
_DAMPING = 0.3  # of the last norm of each block: random residual networks grow without bound
_WAYS = ("eager", "reduce-overhead", "graph", "graph of compiled")
# Name -> (trains, number of images, size).
_WORKS = {
    "inference 1": (False, 1, FULL.image),
    "training 2": (True, 2, FULL.train_image),
    "inference 16": (False, 16, FULL.image),
    "training 16": (True, 16, FULL.image),
}
_ROUNDS, _WARM_UPS = 7, 4


def count_different_targets(device: str, rounds: int) -> tuple[int, int]:
    """Count the locations whose box differs between the CPU and a device, and all compared."""
    generator = torch.Generator().manual_seed(0)
    different = total = 0
    for radius in _RADII:
        assign = FCOSAssigner(levels=Levels(STRIDES), center_sampling_radius=radius)
        for seed in range(rounds):
            height, width, boxes = torch.randint(100, 800, (3,), generator=generator).tolist()
            batch = draw_batch(3, (height, width), boxes // 5, 80, "cpu", seed)
            expected = assign(batch.instances, batch.feature_sizes).matched_idxs()
            moved = [x.to(device) for x in batch.instances]
            result = assign(moved, batch.feature_sizes).matched_idxs().cpu()
            different += int((result != expected).sum())
            total += expected.numel()
    return different, total


def _build(device: str, *opts: Any, config: str = "fcos_R_50_FPN_1x.yaml") -> Any:
    """Build a detector with random weights whose maps stay finite."""
    torch.manual_seed(0)
    model = build_model(make_cfg(FULL, device, *opts, config=config))
    for name, value in model.state_dict().items():
        if name.endswith("conv3.norm.weight"):
            value.mul_(_DAMPING)
    return model


def _train(model: nn.Module, batch: Batch) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Compute the losses and the gradients."""
    losses = model.train()(batch.draw_inputs())
    sum(losses.values()).backward()
    gradients = {
        name: x.grad.float().cpu() for name, x in model.named_parameters() if x.grad is not None
    }
    return {name: x.item() for name, x in losses.items()}, gradients


def compare_models(config: str, opts: str, size: tuple[int, int], device: str) -> dict[str, Any]:
    """
    Run the same weights and images on the CPU and on a device.

    Returns:
        dict: the largest relative difference of the "losses" and, by norms, of the "gradients";
        the largest difference of the "boxes" of the best 50 detections, in pixels; the numbers of
        "detections"; in "bf16", the sum of the losses on the device in bfloat16.
    """
    # Random weights have scores of about 0.01.
    options = [*opts.split(), "MODEL.FCOS.SCORE_THRESH_TEST", 0.005]
    models = [_build(x, *options, config=config) for x in ("cpu", device)]
    models[1].load_state_dict(models[0].state_dict())
    batch = draw_batch(2, size, 12, 80, "cpu")
    (losses, gradients), (other_losses, other_gradients) = (_train(x, batch) for x in models)
    with torch.no_grad():
        detections = [
            [x["instances"].to("cpu") for x in model.eval()(batch.draw_inputs())]
            for model in models
        ]
    with torch.autocast(device, torch.bfloat16):
        in_bf16 = models[1].train()(batch.draw_inputs())
    return {
        "losses": max(abs(x / losses[name] - 1) for name, x in other_losses.items()),
        "gradients": max(
            float((other_gradients[name] - x).norm() / x.norm().clamp(min=1e-12))
            for name, x in gradients.items()
        ),
        "boxes": max(
            float((x.pred_boxes.tensor[:50] - y.pred_boxes.tensor[:50]).abs().max())
            for x, y in zip(*detections, strict=True)
        ),
        "detections": [sum(map(len, x)) for x in detections],
        "bf16": float(sum(in_bf16.values())),
    }


class _Network(nn.Module):
    """Backbone and head of a model, from a tensor to tensors, as CUDA graphs require."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head, self.names = model.backbone, model.head, model.head_in_features

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(images)
        predictions = self.head([maps[name] for name in self.names])
        return (*predictions.cls_logits, *predictions.raw_ltrb, *predictions.quality_logits)

    def to_predictions(self, outputs: Any) -> DensePredictions:
        """Convert the outputs of ``forward`` to those of a head."""
        n = len(self.names)
        maps = (list(outputs[i : i + n]) for i in range(0, 3 * n, n))
        return DensePredictions(*maps, extra={})


def _autocast() -> torch.autocast:
    """Enter bfloat16; a graph must not contain weights that autocast has cached."""
    return torch.autocast("cuda", torch.bfloat16, cache_enabled=False)


def _prepare(way: str, network: nn.Module, images: Tensor, trains: bool) -> Callable[..., Any]:
    """Prepare one of the ways to run a network on images of this shape."""
    if way == "eager":
        return network
    if way == "reduce-overhead":
        return torch.compile(network, mode="reduce-overhead", dynamic=False)
    inner: Any = network
    if way == "graph of compiled":
        inner = torch.compile(network, dynamic=False)
        learned = [x for x in network.parameters() if x.requires_grad]
        for _ in range(_WARM_UPS):  # compiles outside of the capture
            outputs = inner(images)
            if trains:
                torch.autograd.grad([x.float().sum() for x in outputs], learned)
    if trains:
        return torch.cuda.make_graphed_callables(inner, (images,))
    static, graph, stream = images.clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            inner(static)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        outputs = inner(static)

    def replay(images: Tensor) -> Any:
        static.copy_(images)
        graph.replay()
        return outputs

    return replay


def _make_call(way: str, trains: bool, batch: Batch) -> Callable[[], None]:
    """Prepare a whole inference or training step whose network runs in one of the ways."""
    model = _build("cuda").train(trains)
    inputs, network = batch.draw_inputs(), _Network(model)
    learned = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=1e-6, momentum=0.9, fused=True)
    with torch.set_grad_enabled(trains), _autocast():
        run = _prepare(way, network, model.preprocess_image(inputs).tensor, trains)

    def call() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.set_grad_enabled(trains), _autocast():
            images = model.preprocess_image(inputs)
            predictions = network.to_predictions(run(images.tensor))
            if trains:
                losses = model.dense_head.compute_losses(
                    predictions, batch.instances, images.image_sizes
                )
        if not trains:
            model.dense_head.detect(predictions, images.image_sizes)
            return
        optimizer.zero_grad(set_to_none=way in ("eager", "reduce-overhead"))
        sum(losses.values()).backward()
        optimizer.step()

    return call


def _sum_kernels(call: Callable[[], None]) -> float:
    """Sum up the milliseconds of all kernels of a call."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(_WARM_UPS):
            call()
        torch.cuda.synchronize()
    return sum(x.self_device_time_total for x in profiler.key_averages()) / 1000 / _WARM_UPS


def time_ways(name: str) -> None:
    """Print how long each way takes, its kernels alone, and its preparation."""
    trains, num_images, image_size = _WORKS[name]
    batch = draw_batch(num_images, image_size, FULL.train_boxes, 80, "cuda")
    calls, seconds = {}, {}
    for way in _WAYS:
        start = time.perf_counter()
        try:
            call = _make_call(way, trains, batch)
            for _ in range(_WARM_UPS):
                call()
            torch.cuda.synchronize()
        except Exception as error:  # a way that this version of PyTorch does not support
            print(f"{name}, {way}: {type(error).__name__}: {error}"[:300], flush=True)
            continue
        calls[way], seconds[way] = call, time.perf_counter() - start
    works = {way: Work(lambda _, call=call: call()) for way, call in calls.items()}
    case = Case("", name, "ms", time_interleaved(works, _ROUNDS, "cuda"))
    for way, call in calls.items():
        kernels = f"kernels {_sum_kernels(call):.2f} ms, prepared in {seconds[way]:.0f} s"
        print(f"{name}, {way}: {case.median(way):.2f} ms, {kernels}", flush=True)
    torch.compiler.reset()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    parser.add_argument("--only", choices=["agreement", "launches"], help="default: both")


def run(args: argparse.Namespace) -> None:
    """Print how far the device and the CPU agree, and how long each way of launching takes."""
    if args.only != "launches":
        different, total = count_different_targets(args.device, 1 if args.quick else 15)
        print(f"targets: {different} of {total} locations differ", flush=True)
        size = (96, 128) if args.quick else (320, 448)
        for config, opts in _MODELS[: 1 if args.quick else None]:
            print(config, opts, compare_models(config, opts, size, args.device), flush=True)
        if different:
            raise SystemExit(1)
    if args.only != "agreement":
        for name in _WORKS:
            time_ways(name)
