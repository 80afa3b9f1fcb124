"""
Check whether a GPU computes what the CPU does, and CUDA graphs what eager execution does.

Then four ways to run the network are timed in turn, in bfloat16: "eager"; "reduce-overhead",
PyTorch's own CUDA graphs of compiled kernels, one compilation for each size; and the graphs of
fcos_d2, of eager and of compiled kernels. Last, training with the image sizes of a multi-scale
recipe, and ``train_net.py`` on image files.
"""

import argparse
import copy
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils.events import EventStorage
from gpu_models import MODES, build_ours, damp, make_inference, make_steps
from gpu_training import run_training
from measuring import Work, sum_kernels, time_interleaved
from peers import Ours
from workloads import FULL, QUICK, STRIDES, Size, draw_batch, make_cfg

from fcos_d2 import FCOSAssigner, Levels

_CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_MODELS = [  # config file and overrides
    ("fcos_R_50_FPN_1x.yaml", ""),
    ("fcos_R_50_FPN_1x_iccv.yaml", ""),
    ("fcos_R_50_FPN_1x.yaml", "MODEL.FCOS.USE_DEFORMABLE True"),
    ("fcos_R_50_FPN_1x.yaml", "MODEL.RESNETS.DEFORM_ON_PER_STAGE [False,True,True,True]"),
    ("own_data/fcos_efficientnet_lite0.yaml", "MODEL.TIMM.PRETRAINED False"),
]
_GRAPHS = "MODEL.FCOS.CUDA_GRAPHS all"
_SCALES = range(640, 801, 32)  # of the recipes "2x_ms": lengths of the shorter side
_LONGEST = 1333
_TOLERANCE = 1e-3  # relative difference of graphs, in addition to ten times that of two runs


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


def _build(device: str, config: str, opts: str) -> DenseDetector:
    """Build a detector with the random weights of a seed."""
    torch.manual_seed(0)
    model = build_model(make_cfg(FULL, device, *opts.split(), config=config))
    damp(model)
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


def find_recipes() -> Iterator[tuple[str, str]]:
    """Yield config file and overrides of the recipes, one for each different model."""
    seen = set()
    for path in sorted(_CONFIGS.rglob("*.yaml")):
        name = str(path.relative_to(_CONFIGS))
        if name.startswith("Base"):
            continue
        opts = "MODEL.TIMM.PRETRAINED False"
        model = make_cfg(FULL, "cuda", *opts.split(), config=name).MODEL.dump()
        if model not in seen:
            seen.add(model)
            yield name, opts


def compare_graphs(
    config: str, opts: str, device: str, sizes: list[Size], steps: int, dtype: torch.dtype | None
) -> bool:
    """
    Train a model with and without CUDA graphs, and print how far losses and weights agree.

    The image size changes from step to step. Gradients of two steps are added up. The same is done
    without graphs a second time, because some kernels add numbers in a random order.

    Returns:
        bool: Whether graphs were used (on a GPU), and the difference is as small as without graphs.
    """
    plain = _build(device, config, opts)
    models = [plain, copy.deepcopy(plain), _build(device, config, f"{opts} {_GRAPHS}")]
    models[2].load_state_dict(plain.state_dict())
    optimizers = [torch.optim.SGD(x.parameters(), lr=1e-4, momentum=0.9) for x in models]
    losses: list[list[float]] = [[] for _ in models]
    for step in range(steps):
        size = sizes[step % len(sizes)]
        inputs = draw_batch(2, size, 3 + step % 7, 80, device, step).draw_inputs()
        for index, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            uses_autocast = dtype is not None
            with EventStorage(), torch.autocast(device, dtype, enabled=uses_autocast):
                total = sum(model.train()(inputs).values())
            total.backward()
            losses[index].append(float(total))
            if step % 2:
                optimizer.step()
                optimizer.zero_grad(set_to_none=step % 4 == 1)
    graphs = models[2].graphs
    used = graphs.training.num_recordings if graphs is not None else 0
    texts, largest = [], []
    for name, a, b in (("graphs", 2, 0), ("noise", 1, 0)):
        pairs = zip(losses[a], losses[b], strict=True)
        loss = max(abs(x / y - 1) for x, y in pairs)
        weights = zip(models[a].parameters(), models[b].parameters(), strict=True)
        weight = max(float((x - y).norm() / (y.norm() + 1e-12)) for x, y in weights)
        texts.append(f"{name}: losses {loss:.1e}, weights {weight:.1e}")
        largest.append(max(loss, weight))
    text = f"{'; '.join(texts)}; {used} sizes recorded, loss {losses[2][-1]:.4f}"
    print(f"{config}, {steps} steps in {dtype or 'float32'}: {text}", flush=True)
    graphs_error, noise = largest
    return (device != "cuda" or used == len(sizes)) and graphs_error <= 10 * noise + _TOLERANCE


def time_ways(trains: bool, num_images: int, image_size: Size) -> None:
    """Print for each way the time of a call, the sum of its kernels, and its preparation."""
    batch = draw_batch(num_images, image_size, FULL.train_boxes, 80, "cuda")
    print("training," if trains else "inference,", batch.describe(), flush=True)
    cfg, works = make_cfg(FULL, "cuda"), {}
    for way in ("reduce-overhead", *MODES):
        start = time.perf_counter()
        try:
            ours = build_ours(FULL, "cuda", "fcos_d2" if way == "reduce-overhead" else way)
            if way == "reduce-overhead":
                _use_reduce_overhead(ours)
            work = make_steps(ours, batch, "bf16", cfg) if trains else None
            work = work or make_inference(ours, batch, "bf16")
            for _ in range(4):
                work.run(work.prepare())
            torch.cuda.synchronize()
        except Exception as error:  # a way that this version of PyTorch does not support
            print(f"  {way}: {type(error).__name__}: {error}"[:300], flush=True)
            continue
        works[way] = work
        print(f"  {way}: prepared in {time.perf_counter() - start:.0f} s", flush=True)
    steps = 4 if trains else 1
    for way, times in time_interleaved(works, 5, "cuda").items():
        middle = sorted(times)[len(times) // 2] / steps
        kernels = sum_kernels(works[way]) / steps
        print(f"  {way}: {middle:.2f} ms, kernels {kernels:.2f} ms", flush=True)
    torch.compiler.reset()


def _use_reduce_overhead(ours: Ours) -> None:
    """Compile backbone and head with PyTorch's CUDA graphs."""
    for network in (ours.model.backbone, ours.model.head):
        network.compile(mode="reduce-overhead", dynamic=False)


def draw_sizes(count: int, images: int, seed: int = 0) -> list[Size]:
    """Draw the sizes of batches of a multi-scale training on images with the sizes of photos."""
    rng = random.Random(seed)
    groups: dict[bool, list[Size]] = {True: [], False: []}  # by orientation, as detectron2 does
    batches: list[Size] = []
    while len(batches) < count:
        height, width = rng.choice([(480, 640)] * 3 + [(640, 480), (427, 640), (640, 427)])
        if rng.random() < 0.3:
            width, height = rng.choice([(640, rng.randint(300, 640)), (rng.randint(300, 640), 640)])
        scale = min(rng.choice(_SCALES) / min(height, width), _LONGEST / max(height, width))
        group = groups[width > height]
        group.append((round(height * scale), round(width * scale)))
        if len(group) == images:
            sides = zip(*group, strict=True)
            padded_height, padded_width = (-(-max(x) // 32) * 32 for x in sides)
            batches.append((padded_height, padded_width))
            group.clear()
    return batches


def train_on_scales(device: str, sizes: list[Size], mode: str, cfg: CfgNode, is_quick: bool) -> str:
    """Train on batches of two images of changing sizes; return time and memory as a text."""
    ours = build_ours(QUICK if is_quick else FULL, device, mode)
    works: dict[Size, Work] = {}
    for size in set(sizes):
        batch = draw_batch(2, size, 7, cfg.MODEL.FCOS.NUM_CLASSES, device)
        works[size] = make_steps(ours, batch, "bf16", cfg, steps=1)
    works[sizes[0]].run(works[sizes[0]].prepare())
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for size in sizes:
        works[size].run(works[size].prepare())
    if device != "cuda":
        return f"{time.perf_counter() - start:.1f} s"
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.max_memory_reserved()
    return (
        f"{seconds:.1f} s for {len(sizes)} batches of {len(set(sizes))} sizes; reserved at most "
        f"{reserved / 1e6:.0f} MB; all of the device {(total - free) / 1e6:.0f} MB"
    )


def run_exactness(args: argparse.Namespace) -> None:
    """Compare the device with the CPU, and CUDA graphs with eager execution."""
    torch.backends.cudnn.allow_tf32 = False
    different, total = count_different_targets(args.device, 1 if args.quick else 15)
    print(f"targets: {different} of {total} locations differ", flush=True)
    size = (96, 128) if args.quick else (320, 448)
    for config, opts in _MODELS[: 1 if args.quick else None]:
        print(config, opts, compare_models(config, opts, size, args.device), flush=True)
    if different:
        raise SystemExit(1)
    sizes = [(96, 128), (128, 96)] if args.quick else [(256, 320), (320, 256)]
    recipes = _MODELS[:1] if args.quick else list(find_recipes())
    equal = [compare_graphs(*recipe, args.device, sizes, 6, None) for recipe in recipes]
    config, opts = _MODELS[0]
    sizes = [(96, 128), (128, 128)] if args.quick else [(320, 448), (448, 320), (384, 384)]
    steps = 4 if args.quick else 60
    equal.append(compare_graphs(config, opts, args.device, sizes, steps, torch.bfloat16))
    if not all(equal):
        print(f"{equal.count(False)} models differ with CUDA graphs, or do not use them.")
        raise SystemExit(1)


def run_ways(args: argparse.Namespace) -> None:
    """Time the ways to launch kernels."""
    for images, size in ((1, FULL.image), (16, FULL.image)):
        time_ways(False, images, size)
    for images, size in ((2, FULL.train_image), (16, FULL.image)):
        time_ways(True, images, size)


def run_scales(args: argparse.Namespace) -> None:
    """Train with changing image sizes, with and without CUDA graphs."""
    sizes = [(96, 128), (128, 96), (96, 128)] if args.quick else draw_sizes(300, 2)
    cfg = make_cfg(QUICK if args.quick else FULL, args.device)
    for mode in list(MODES)[:2]:
        print(mode, train_on_scales(args.device, sizes, mode, cfg, args.quick), flush=True)


PARTS = {
    "exactness": run_exactness,
    "ways": run_ways,
    "scales": run_scales,
    "training": run_training,
}


def run(args: argparse.Namespace) -> None:
    """Run the parts that the flags name."""
    for name in args.parts:
        if name != "ways" or args.device == "cuda":
            PARTS[name](args)
