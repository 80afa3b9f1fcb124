"""Count the parameters and GFLOPs of the recipes, the last two columns in configs/README.md."""

import argparse
import re
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from fvcore.nn import FlopCountAnalysis, parameter_count
from peers import Network
from torch import nn
from workloads import FULL, make_cfg

from fcos_d2.atomic_write import replacing

_README = Path(__file__).resolve().parent.parent / "configs" / "README.md"
_HEIGHT, _WIDTH = 480, 640  # pixels; the most common size in COCO
_ROW = re.compile(r"\| \[`(?P<config>[^`]+)`\]\([^)]*\) \|(?P<cells>.*)\|")


def find_recipe_rows(text: str) -> dict[str, list[str]]:
    """Return the cells after the config in each row of a recipe in configs/README.md, by config."""
    matches = filter(None, map(_ROW.fullmatch, text.splitlines()))
    return {x["config"]: [cell.strip() for cell in x["cells"].split("|")] for x in matches}


def build_recipe_model(config: str) -> tuple[CfgNode, DenseDetector]:
    """Build the config and the model of a recipe for COCO, with random weights."""
    # Published numbers include normalization layers.
    opts = ("MODEL.TIMM.PRETRAINED", False, "MODEL.FCOS.FOLD_FROZEN_BN", False)
    cfg = make_cfg(FULL, "cpu", *opts, config=config)
    return cfg, build_model(cfg)


def count_parameters(model: nn.Module) -> str:
    """Count the parameters in millions, including frozen weights but not statistics of norms."""
    return f"{parameter_count(model)[''] / 1e6:.2f}"


def count_gflops(cfg: CfgNode, model: DenseDetector) -> str:
    """Count the multiply-adds in billions, for an image of 640 x 480, resized as in evaluation."""
    sizes = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    image = torch.zeros(3, *ResizeShortestEdge.get_output_shape(_HEIGHT, _WIDTH, *sizes))
    images = model.eval().preprocess_image([{"image": image}]).tensor
    # Only backbone and head: the selection of detections cannot be traced.
    analysis = FlopCountAnalysis(Network(model), images)
    analysis.set_op_handle("torchvision::deform_conv2d", _count_deform_conv)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad():
        return f"{analysis.total() / 1e9:.1f}"


def _count_deform_conv(inputs: list[Any], outputs: list[Any]) -> int:
    """Count a deformable convolution like a plain one; fvcore never counts bilinear sampling."""
    weight = torch.Size(inputs[1].type().sizes())  # (C', C / groups, 3, 3)
    batch, _, height, width = outputs[0].type().sizes()
    return batch * height * width * weight.numel()


def run(args: argparse.Namespace) -> None:
    """Count for each recipe, and write the last two columns of the tables."""
    lines = _README.read_text().splitlines()
    for index, line in enumerate(lines):
        for config in find_recipe_rows(line):
            cfg, model = build_recipe_model(config)
            counts = f"| {count_parameters(model)} | {count_gflops(cfg, model)} |"
            print(config, counts, flush=True)
            lines[index] = line.rsplit("|", maxsplit=3)[0] + counts
    with replacing(_README) as path:
        path.write_text("\n".join(lines) + "\n")
