"""
Check whether a GPU computes what the CPU does, and how long it waits for kernel launches.

Four ways to run the network are timed in turn, in bfloat16: "eager"; "reduce-overhead", PyTorch's
own CUDA graphs of compiled kernels; "graph", a CUDA graph of eager kernels; "graph of compiled".
"""

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from measuring import Work, time_interleaved
from peers import Network
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from workloads import FULL, STRIDES, Batch, Size, draw_batch, make_cfg

from fcos_d2 import DensePredictions, FCOSAssigner, Levels

_MODELS = [  # config file and overrides
    ("fcos_R_50_FPN_1x.yaml", ""),
    ("fcos_R_50_FPN_1x_iccv.yaml", ""),
    ("fcos_R_50_FPN_1x.yaml", "MODEL.FCOS.USE_DEFORMABLE True"),
    ("fcos_R_50_FPN_1x.yaml", "MODEL.RESNETS.DEFORM_ON_PER_STAGE [False,True,True,True]"),
    ("own_data/fcos_efficientnet_lite0.yaml", "MODEL.TIMM.PRETRAINED False"),
]
_ROUNDS, _WARM_UPS = 7, 4


def count_different_targets(device: str, rounds: int) -> tuple[int, int]:
    """Count the locations whose box differs between the CPU and a device, and all compared."""
    generator = torch.Generator().manual_seed(0)
    different = total = 0
    for radius in (1.5, 0.0, 0.7, 4.0, 16.0):
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


def _build(device: str, config: str = "fcos_R_50_FPN_1x.yaml", opts: str = "") -> DenseDetector:
    """Build a detector with random weights, damped because residual maps grow without bound."""
    torch.manual_seed(0)
    model = build_model(make_cfg(FULL, device, *opts.split(), config=config))
    for name, value in model.state_dict().items():
        if name.endswith("conv3.norm.weight"):
            value.mul_(0.3)
    return model


def compare_models(config: str, opts: str, size: Size, device: str) -> dict[str, Any]:
    """Compare losses and gradients (relative) and boxes (pixels) of the CPU and a device."""
    opts += " MODEL.FCOS.SCORE_THRESH_TEST 0.005"  # scores of random weights are about 0.01
    models = [_build(x, config, opts) for x in ("cpu", device)]
    models[1].load_state_dict(models[0].state_dict())
    inputs = draw_batch(2, size, 12, 80, "cpu").draw_inputs()
    losses, gradients, detections = [], [], []
    for model in models:
        computed = model.train()(inputs)
        sum(computed.values()).backward()
        losses.append({name: x.item() for name, x in computed.items()})
        grads = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
        gradients.append({name: x.float().cpu() for name, x in grads.items()})
        with torch.no_grad():
            detections.append([x["instances"].to("cpu") for x in model.eval()(inputs)])
    boxes = [torch.cat([x.pred_boxes.tensor[:50] for x in images]) for images in detections]
    grad_pairs = [(x, gradients[1][name]) for name, x in gradients[0].items()]
    return {
        "losses": max(abs(losses[1][name] / x - 1) for name, x in losses[0].items()),
        "gradients": max(float((x - y).norm() / (x.norm() + 1e-12)) for x, y in grad_pairs),
        "boxes": float((boxes[0] - boxes[1]).abs().max()),
        "detections": [sum(map(len, x)) for x in detections],
    }


def _autocast() -> torch.autocast:
    """Enter bfloat16; a graph must not contain weights that autocast has cached."""
    return torch.autocast("cuda", torch.bfloat16, cache_enabled=False)


def _prepare(way: str, network: nn.Module, images: Tensor) -> Callable[..., Any]:
    """Prepare one of the ways to run a network on images of this shape."""
    if way == "reduce-overhead":
        return torch.compile(network, mode=way, dynamic=False)
    runner: Any = torch.compile(network, dynamic=False) if way == "graph of compiled" else network
    if way == "eager":
        return runner
    return torch.cuda.make_graphed_callables(runner, (images,), num_warmup_iters=_WARM_UPS)


def _make_work(way: str, trains: bool, batch: Batch) -> Work:
    """Prepare a whole inference or training step whose network runs in one of the ways."""
    model = _build("cuda").train(trains)
    inputs, network = batch.draw_inputs(), Network(model)
    learned = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=1e-6, momentum=0.9, fused=True)
    with torch.set_grad_enabled(trains), _autocast():
        run_network = _prepare(way, network, model.preprocess_image(inputs).tensor)

    def predict() -> tuple[DensePredictions, list[tuple[int, int]]]:
        torch.compiler.cudagraph_mark_step_begin()
        images = model.preprocess_image(inputs)
        return network.to_predictions(run_network(images.tensor)), images.image_sizes

    @torch.no_grad()
    def infer(_: None) -> None:
        with _autocast():
            outputs = predict()
        model.dense_head.detect(*outputs)

    def train(_: None) -> None:
        optimizer.zero_grad(set_to_none=way in ("eager", "reduce-overhead"))
        with _autocast():
            predictions, sizes = predict()
            losses = model.dense_head.compute_losses(predictions, batch.instances, sizes)
        sum(losses.values()).backward()
        optimizer.step()

    return Work(train if trains else infer)


def time_ways(trains: bool, num_images: int, image_size: Size) -> None:
    """Print for each way the time of a call and the sum of its kernels."""
    batch = draw_batch(num_images, image_size, FULL.train_boxes, 80, "cuda")
    print("training," if trains else "inference,", batch.describe())
    works = {}
    for way in ("eager", "reduce-overhead", "graph", "graph of compiled"):
        try:
            work = _make_work(way, trains, batch)
            for _ in range(_WARM_UPS):
                work.run(None)
            torch.cuda.synchronize()
        except Exception as error:  # a way that this version of PyTorch does not support
            print(f"  {way}: {type(error).__name__}: {error}"[:300], flush=True)
            continue
        works[way] = work
    for way, times in time_interleaved(works, _ROUNDS, "cuda").items():
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(_WARM_UPS):
                works[way].run(None)
            torch.cuda.synchronize()
        kernels = sum(x.self_device_time_total for x in profiler.key_averages()) / 1000 / _WARM_UPS
        print(f"  {way}: {median(times):.2f} ms, kernels {kernels:.2f} ms", flush=True)
    torch.compiler.reset()


def run(args: argparse.Namespace) -> None:
    """Print how far the device and the CPU agree, and how long each way of launching takes."""
    torch.backends.cudnn.allow_tf32 = False
    different, total = count_different_targets(args.device, 1 if args.quick else 15)
    print(f"targets: {different} of {total} locations differ", flush=True)
    size = (96, 128) if args.quick else (320, 448)
    for config, opts in _MODELS[: 1 if args.quick else None]:
        print(config, opts, compare_models(config, opts, size, args.device), flush=True)
    if different:
        raise SystemExit(1)
    if args.device == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        for images, size in ((1, FULL.image), (16, FULL.image)):
            time_ways(False, images, size)
        for images, size in ((2, FULL.train_image), (16, FULL.image)):
            time_ways(True, images, size)
