"""
Whether a GPU computes what the CPU does: targets, losses, gradients, detections, autocast.

    python benchmarks/gpu/check.py [--quick]

Prints a row for each config, and exits with 1 where a target differs.
"""

import argparse
import copy
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from workloads import STRIDES, Batch, draw_batch

from fcos_d2 import FCOSAssigner, Levels, add_fcos_config, add_train_config, get_config_file

__all__ = ["CONFIGS", "Differences", "compare_models", "count_different_targets"]

# Name -> config file and overrides of it.
CONFIGS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "R-50": ("fcos_R_50_FPN_1x.yaml", ()),
    "R-50, ICCV version": ("fcos_R_50_FPN_1x_iccv.yaml", ()),
    "R-50, deformable head": ("fcos_R_50_FPN_1x.yaml", ("MODEL.FCOS.USE_DEFORMABLE", True)),
    "R-50, deformable stages": (
        "fcos_R_50_FPN_1x.yaml",
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]),
    ),
    "EfficientNet-lite0": (
        "own_data/fcos_efficientnet_lite0.yaml",
        ("MODEL.TIMM.PRETRAINED", False),
    ),
}
_RADII = (1.5, 0.0, 0.7, 4.0, 16.0)
_DAMPING = 0.3  # of the last norm of each block: random residual networks grow without bound


class Differences(NamedTuple):
    """
    Of one config between CPU and GPU.

    Attributes:
        loss, gradient (float): largest relative difference of a loss; of a parameter's gradient,
            by norms.
        boxes (float): largest difference of a coordinate of the best 50 detections, in pixels.
        num_detections (tuple[int, int]): of all images, on the CPU and on the GPU.
        autocast (dict[str, float]): sum of the losses in each type, on the GPU.
    """

    loss: float
    gradient: float
    boxes: float
    num_detections: tuple[int, int]
    autocast: dict[str, float]


def count_different_targets(device: str, rounds: int) -> tuple[int, int]:
    """Count locations whose box differs between the CPU and a device, and all compared ones."""
    generator = torch.Generator().manual_seed(0)
    different = total = 0
    for radius in _RADII:
        assign = FCOSAssigner(levels=Levels(STRIDES), center_sampling_radius=radius)
        for seed in range(rounds):
            height, width, boxes = torch.randint(100, 800, (3,), generator=generator).tolist()
            batch = draw_batch(3, (height, width), boxes // 5, 80, "cpu", seed)
            expected = assign(batch.instances, batch.feature_sizes).matched_idxs()
            there = [x.to(device) for x in batch.instances]
            found = assign(there, batch.feature_sizes).matched_idxs().cpu()
            different += int((found != expected).sum())
            total += expected.numel()
    return different, total


def _build(config_file: str, opts: tuple[Any, ...], device: str) -> Any:
    cfg = get_cfg()
    add_fcos_config(cfg)
    add_train_config(cfg)
    cfg.merge_from_file(get_config_file(config_file))
    cfg.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.FCOS.NUM_CLASSES", 80, *opts])
    cfg.MODEL.DEVICE = device
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = 0.005  # random weights score about 0.01
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, value in model.state_dict().items():
        if name.endswith("conv3.norm.weight"):
            value.mul_(_DAMPING)
    return model


def _inputs_of(batch: Batch) -> list[dict[str, Any]]:
    pairs = zip(batch.draw_images(), batch.instances, strict=True)
    return [{"image": image, "instances": copy.deepcopy(x)} for image, x in pairs]


def _train(model: nn.Module, batch: Batch) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    losses = model.train()(_inputs_of(batch))
    sum(losses.values()).backward()
    gradients = {
        name: x.grad.float().cpu() for name, x in model.named_parameters() if x.grad is not None
    }
    return {name: x.item() for name, x in losses.items()}, gradients


def compare_models(
    config_file: str, opts: tuple[Any, ...], image_size: tuple[int, int], device: str
) -> Differences:
    """Run the same weights and images on the CPU and on a device."""
    models = [_build(config_file, opts, x) for x in ("cpu", device)]
    models[1].load_state_dict(models[0].state_dict())
    batch = draw_batch(2, image_size, 12, 80, "cpu")
    (losses, gradients), (other_losses, other_gradients) = (_train(x, batch) for x in models)
    with torch.no_grad():
        found, others = (
            [x["instances"].to("cpu") for x in model.eval()(_inputs_of(batch))] for model in models
        )
    sums = {}
    for dtype in (torch.bfloat16, torch.float16) if device == "cuda" else (torch.bfloat16,):
        with torch.autocast(device, dtype):
            total = sum(models[1].train()(_inputs_of(batch)).values())
        sums[str(dtype).removeprefix("torch.")] = float(torch.as_tensor(total).detach())
    return Differences(
        loss=max(abs(x / losses[name] - 1) for name, x in other_losses.items()),
        gradient=max(
            float((other_gradients[name] - x).norm() / x.norm().clamp(min=1e-12))
            for name, x in gradients.items()
        ),
        boxes=max(
            float((a.pred_boxes.tensor[:50] - b.pred_boxes.tensor[:50]).abs().max())
            for a, b in zip(found, others, strict=True)
        ),
        num_detections=(sum(map(len, found)), sum(map(len, others))),
        autocast=sums,
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="to compare with the CPU")
    parser.add_argument("--quick", action="store_true", help="one config and small images")
    args = parser.parse_args(argv)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    different, total = count_different_targets(args.device, 1 if args.quick else 15)
    print(f"targets: {different} of {total} locations differ", flush=True)
    size = (96, 128) if args.quick else (320, 448)
    for name in list(CONFIGS)[: 1 if args.quick else None]:
        found = compare_models(*CONFIGS[name], size, args.device)
        print(
            f"{name}: losses {found.loss:.1e}, gradients {found.gradient:.1e}, boxes "
            f"{found.boxes:.1e} px, detections {found.num_detections}, {found.autocast}",
            flush=True,
        )
    return int(different > 0)


if __name__ == "__main__":
    raise SystemExit(main())
