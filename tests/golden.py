"""
Values that the model computes for 16 small configs, which refactoring must not change.

    python tests/golden.py            # compares, and prints the differences
    python tests/golden.py --write    # writes tests/data/golden/*.json; explain it in the commit

Each file has the names and shapes of the state dict, and targets, losses, gradient norms and
detections in float32 and in float64. On the machine that wrote the file, the values must be equal
bit for bit. On other machines, float64 values may differ by 1e-6, and float32 is not compared.
"""

import argparse
import contextlib
import hashlib
import json
import math
import platform
import re
from pathlib import Path

import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import FPN, build_model
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from detectron2.structures import Boxes, PolygonMasks
from tiny import random_input, tiny_cfg

from fcos_d2 import (
    FCOS,
    FCOSAssigner,
    FCOSDenseHead,
    FCOSHead,
    FCOSLosses,
    FCOSPostProcessor,
    Levels,
)

FOLDER = Path(__file__).resolve().parent / "data" / "golden"
TOLERANCE = 1e-6  # relative to the value, or to 1 where that is larger

_R18 = {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 8}
# Overrides of the tiny config; None stands for the model of ``lazy_config``.
CONFIGS = {
    "default": {},
    "whole_box_exp": {
        "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 0.0,
        "MODEL.FCOS.BOX_ACTIVATION": "exp",
        "MODEL.FCOS.CENTERNESS_ON": "cls",
        "MODEL.FCOS.CTR_WEIGHTED_LOC_LOSS": False,
    },
    "shared_tower_bn": {
        **_R18,
        "MODEL.FCOS.NUM_SHARE_CONVS": 1,
        "MODEL.FCOS.NORM": "BN",
        "MODEL.FCOS.HEAD_CHANNELS": 32,
        "MODEL.FCOS.NUM_CLS_CONVS": 2,
    },
    "no_norm_no_scale": {
        **_R18,
        "MODEL.FCOS.NORM": "",
        "MODEL.FCOS.USE_SCALE": False,
        "MODEL.FCOS.LOC_LOSS_TYPE": "linear_iou",
        "MODEL.FCOS.CHANNELS_LAST": False,
    },
    "sync_bn": {**_R18, "MODEL.FCOS.NORM": "SyncBN", "MODEL.FPN.NORM": "naiveSyncBN"},
    "deformable": {
        "MODEL.FCOS.USE_DEFORMABLE": True,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True],
        "MODEL.RESNETS.DEFORM_MODULATED": True,
    },
    "quality_iou_moving_fg": {
        **_R18,
        "MODEL.FCOS.BOX_QUALITY": "iou",
        "MODEL.FCOS.LOSS_NORMALIZER": "moving_fg",
        "MODEL.FCOS.LOC_LOSS_TYPE": "ciou",
    },
    "centerness_moving_fg": {**_R18, "MODEL.FCOS.LOSS_NORMALIZER": "moving_fg"},
    "quality_none_all": {
        **_R18,
        "MODEL.FCOS.BOX_QUALITY": "none",
        "MODEL.FCOS.LOSS_NORMALIZER": "all",
        "MODEL.FCOS.LOC_LOSS_TYPE": "diou",
    },
    "ignore_boxes": {
        **_R18,
        "MODEL.FCOS.LOC_LOSS_TYPE": "iou",
        "MODEL.FCOS.FOCAL_LOSS_GAMMA": 1.5,
    },
    "center_of_mask": {
        **_R18,
        "MODEL.FCOS.CENTER_OF_MASK": True,
        "MODEL.MASK_ON": True,
        "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 2.5,
    },
    "frozen_bn_folded": {
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.FPN.NORM": "FrozenBN",
        "MODEL.BACKBONE.FREEZE_AT": 2,
        "MODEL.FCOS.CHECKPOINT_TOWERS": True,
        "MODEL.FCOS.LOSS_WEIGHT_CLS": 0.5,
        "MODEL.FCOS.LOSS_WEIGHT_QUALITY": 2.0,
    },
    "timm": {
        "MODEL.BACKBONE.NAME": "build_fcos_timm_fpn_backbone",
        "MODEL.TIMM.NORM": "FrozenBN",
        "MODEL.TIMM.NAME": "mobilenetv3_small_050",
    },
    "bifpn": {
        **_R18,
        "MODEL.BACKBONE.NAME": "build_fcos_resnet_bifpn_backbone",
        "MODEL.BIFPN.OUT_CHANNELS": 32,
        "MODEL.BIFPN.NUM_REPEATS": 1,
        "MODEL.BIFPN.NORM": "BN",
    },
    "three_levels_at_corners": {
        **_R18,
        "MODEL.FCOS.IN_FEATURES": ["p3", "p4", "p5"],
        "MODEL.FCOS.TOP_LEVELS": 0,
        "MODEL.FCOS.SIZES_OF_INTEREST": [32, 64],
        "MODEL.FCOS.LOCATION_OFFSET": 0.0,
        "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 4.0,
        "MODEL.FCOS.THRESH_WITH_CTR": True,
        "MODEL.FCOS.TOPK_CANDIDATES_TEST": 40,
        "MODEL.FCOS.NMS_THRESH_TEST": 0.3,
        "TEST.DETECTIONS_PER_IMAGE": 20,
    },
    "lazy": None,
}


def build(name):
    """Build the model of a config on the CPU, with random weights that detect some boxes."""
    torch.manual_seed(0)
    overrides = CONFIGS[name]
    if overrides is None:
        model = instantiate(lazy_config())
    else:
        model = build_model(tiny_cfg({"MODEL.FCOS.PRIOR_PROB": 0.2}, overrides))
    with torch.no_grad():
        # Between processors, normal random numbers differ in the last bits; uniform ones do not.
        for weight in (x for x in model.parameters() if x.dim() == 4):
            weight.copy_((torch.rand(weight.shape) - 0.5) * math.sqrt(12 / weight[0].numel()))
        for module in model.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        model.head.bbox_pred.bias.fill_(3.0 if name == "whole_box_exp" else 1.0)
    return model


def lazy_config():
    """Return a LazyConfig of a small FCOS from the plain constructors, with a ResNet-18."""
    channels = 32
    return L(FCOS)(
        backbone=L(FPN)(
            bottom_up=L(ResNet)(
                stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
                stages=L(ResNet.make_default_stages)(depth=18, norm="FrozenBN"),
                out_features=["res3", "res4", "res5"],
            ),
            in_features=["res3", "res4", "res5"],
            out_channels=channels,
            top_block=L(LastLevelP6P7)(
                in_channels=channels, out_channels=channels, in_feature="p5"
            ),
        ),
        dense_head=L(FCOSDenseHead)(
            levels=L(Levels)(strides=[8, 16, 32, 64, 128]),
            head=L(FCOSHead)(
                input_shape=[ShapeSpec(channels=channels)] * 5,
                num_classes=5,
                num_cls_convs=1,
                num_box_convs=1,
                norm="BN",
                prior_prob=0.2,
            ),
            assigner=L(FCOSAssigner)(levels="${..levels}"),
            losses=L(FCOSLosses)(levels="${..levels}", loc_loss_type="ciou"),
            postprocessor=L(FCOSPostProcessor)(levels="${..levels}", nms_thresh_test=0.5),
        ),
        num_classes=5,
        pixel_mean=[103.53, 116.28, 123.675],
        pixel_std=[57.0, 57.0, 58.0],
    )


def draw_inputs(name):
    """Draw two images with objects, which differ in size, and one without."""
    inputs = [random_input(4, seed=1), random_input(3, 128, 96, seed=2), random_input(0, seed=3)]
    if name == "ignore_boxes":
        crowds = torch.tensor([[0.0, 0.0, 60.0, 50.0], [70.0, 30.0, 128.0, 96.0]])
        inputs[0]["gt_ignore_boxes"] = Boxes(crowds)
    if name == "center_of_mask":
        for x in inputs[:2]:
            x["instances"].gt_masks = PolygonMasks(
                [[[x1, y1, x2, y1, x1, y2]] for x1, y1, x2, y2 in x["instances"].gt_boxes.tensor]
            )
    return inputs


def find_targets(model, inputs, feature_sizes):
    """Return sorted rows (image, location, box in the image, l, t, r, b), one for each positive."""
    instances = [x["instances"] for x in inputs]
    targets = model.assigner(instances, feature_sizes)
    starts = torch.tensor([0, *(len(x) for x in instances)]).cumsum(0)
    rows = []
    for image, location, box, ltrb in zip(
        targets.image_idxs[targets.is_positive].tolist(),
        targets.location_idxs[targets.is_positive].tolist(),
        targets.gt_idxs[targets.is_positive].tolist(),
        targets.ltrb[targets.is_positive].tolist(),
        strict=True,
    ):
        rows.append([image, location, box - int(starts[image]), *ltrb])
    return sorted(rows)


def run(name, dtype):
    """Compute targets, losses, gradient norms and detections in one precision."""
    model = build(name).to(dtype)
    sizes = []
    hook = model.head.register_forward_pre_hook(
        lambda _, args: sizes.append([tuple(x.shape[2:]) for x in args[0]])
    )
    losses = model.train()(draw_inputs(name))
    sum(losses.values()).backward()
    hook.remove()
    gradients = {
        key: x.grad.norm().item() for key, x in model.named_parameters() if x.grad is not None
    }
    targets = find_targets(model, draw_inputs(name), sizes[0])
    with torch.no_grad():
        detections = model.eval()(
            [{k: v for k, v in x.items() if k == "image"} for x in draw_inputs(name)]
        )
    return {
        "targets": targets,
        "losses": {key: x.item() for key, x in losses.items()},
        "gradients": gradients,
        "detections": [
            [
                [label, score, *box]
                for label, score, box in zip(
                    x["instances"].pred_classes.tolist(),
                    x["instances"].scores.tolist(),
                    x["instances"].pred_boxes.tensor.tolist(),
                    strict=True,
                )
            ]
            for x in detections
        ],
    }


def compute(name):
    """Compute the content of the file of a config."""
    with one_thread():
        return {
            "machine": describe_machine(),
            "state": {key: list(x.shape) for key, x in build(name).state_dict().items()},
            "float32": run(name, torch.float32),
            "float64": run(name, torch.float64),
        }


def differences(name):
    """Return the kinds of values that differ from the file of a config; [] means equal."""
    expected = json.loads((FOLDER / f"{name}.json").read_text())
    computed = json.loads(json.dumps(compute(name)))
    if list(computed["state"].items()) != list(expected["state"].items()):
        return ["the state dict: names, shapes or their order"]
    if computed["machine"] == expected["machine"]:
        kinds = [(precision, kind) for precision in ("float32", "float64") for kind in _KINDS]
        return [f"{p} {k}: not bit for bit" for p, k in kinds if computed[p][k] != expected[p][k]]
    computed, expected = computed["float64"], expected["float64"]
    return [kind for kind in _KINDS if not _are_close(computed[kind], expected[kind])]


_KINDS = ("targets", "losses", "gradients", "detections")


def _are_close(computed, expected):
    a, b = _numbers(computed), _numbers(expected)
    if len(a) != len(b):
        return False
    return bool(((a - b).abs() <= TOLERANCE * b.abs().clamp(min=1)).all())


def _numbers(content):
    """Return all numbers of nested lists and dicts as one tensor."""
    values = []

    def collect(x):
        if isinstance(x, dict):
            x = [value for _, value in sorted(x.items())]
        for part in x if isinstance(x, list) else ():
            collect(part)
        if not isinstance(x, list):
            values.append(x)

    collect(content)
    return torch.tensor(values, dtype=torch.float64)


@contextlib.contextmanager
def one_thread():
    """Use one thread, because the number of threads changes the order of sums, and so rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_machine():
    """Return a hash of processor, PyTorch and its instruction set, on which rounding depends."""
    info = Path("/proc/cpuinfo")
    cpu = info.read_text() if info.is_file() else platform.processor()
    lines = sorted(set(re.findall(r"(?:model name|flags|cache size|model|stepping)\s*:.*", cpu)))
    parts = [*lines, platform.machine(), torch.__version__, torch.backends.cpu.get_cpu_capability()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("names", nargs="*", default=list(CONFIGS))
    args = parser.parse_args()
    for name in args.names:
        if args.write:
            FOLDER.mkdir(parents=True, exist_ok=True)
            content = re.sub(  # one line for each row of numbers
                r"\[\s+([^][{}]*?)\s+\]",
                lambda match: "[" + re.sub(r"\s*\n\s*", " ", match[1]) + "]",
                json.dumps(compute(name), indent=0),
            )
            (FOLDER / f"{name}.json").write_text(content + "\n")
        print(name, differences(name) or "equal")


if __name__ == "__main__":
    main()
