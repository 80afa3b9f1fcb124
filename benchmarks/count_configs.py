#!/usr/bin/env python3
"""
Count the parameters and operations of the recipes, and write them into configs/README.md.

    python benchmarks/count_configs.py            # parameters and GFLOPs of all (minutes)
    python benchmarks/count_configs.py R_50       # of those with R_50 in their name

The first columns of the table are written by hand, the last two by this script. Operations are
those of the whole detector for one image of 640 x 480 pixels, resized as the recipe's evaluation
does it: a multiplication with its addition is one, as fvcore and papers count.
"""

import argparse
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from detectron2.utils.analysis import FlopCountAnalysis, parameter_count
from torch import nn

from fcos_d2 import add_fcos_config, get_config_file
from fcos_d2.atomic_write import replacing

__all__ = ["README", "Row", "build_recipe", "count_gflops", "count_parameters", "rows_of"]

README = Path(__file__).resolve().parent.parent / "configs" / "README.md"

_HEIGHT, _WIDTH = 480, 640  # pixels; the commonest size in COCO
_ROW = re.compile(r"\| \[`(?P<config>[^`]+)`\]\([^)]*\) \|.*\|")


class Row(NamedTuple):
    """A line of the table: its config, and the cells behind that."""

    config: str
    cells: tuple[str, ...]


def rows_of(text: str) -> list[Row]:
    """The recipes in the tables of a README."""
    lines = [line for line in text.splitlines() if _ROW.fullmatch(line)]
    return [_parse(line) for line in lines]


def build_recipe(config: str, device: str = "cpu") -> tuple[CfgNode, nn.Module]:
    """
    The detector of a recipe for COCO, with random weights.

    Args:
        config (str): name as for ``get_config_file``.
        device (str): "cpu", or "meta" for parameters that have shapes and no values.
    """
    cfg = get_cfg()
    add_fcos_config(cfg)
    cfg.merge_from_file(get_config_file(config))
    cfg.MODEL.DEVICE = device
    cfg.MODEL.TIMM.PRETRAINED = False
    cfg.MODEL.FCOS.FOLD_FROZEN_BN = False  # peers count their norms
    with torch.device(device):
        return cfg, build_model(cfg)


def count_parameters(model: nn.Module) -> str:
    """Millions of weights, frozen ones too; statistics of norms are none."""
    return f"{parameter_count(model)[''] / 1e6:.2f}"


def count_gflops(cfg: CfgNode, model: nn.Module) -> str:
    """Billions of multiplications with addition, for one image."""
    height, width = ResizeShortestEdge.get_output_shape(
        _HEIGHT, _WIDTH, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    )
    image = torch.zeros(3, height, width)
    analysis = FlopCountAnalysis(model.eval(), [{"image": image}])
    analysis.set_op_handle("torchvision::deform_conv2d", _deform_conv_flops)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad():
        return f"{analysis.total() / 1e9:.1f}"


def _deform_conv_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """As a plain convolution; sampling is not counted, as bilinear resizing is not."""
    weight = inputs[1].type().sizes()  # (C', C / groups, 3, 3)
    batch, _, height, width = outputs[0].type().sizes()
    return batch * height * width * weight[0] * weight[1] * weight[2] * weight[3]


def _parse(line: str) -> Row:
    match = _ROW.fullmatch(line)
    assert match is not None, line
    _, *cells = (cell.strip() for cell in line.strip("|").split("|"))
    return Row(match["config"], tuple(cells))


def _rewritten(text: str, counts: Callable[[str], tuple[str, str] | None]) -> str:
    """The README with the last two cells of each row replaced."""
    lines = text.splitlines()
    for index, line in enumerate(lines):
        if _ROW.fullmatch(line) and (found := counts(_parse(line).config)):
            head = line.strip().strip("|").split("|")[:-2]
            lines[index] = "|" + "|".join(head) + f"| {found[0]} | {found[1]} |"
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="", help="a part of the names to count")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # that pixels are not what ImageNet weights want

    known: dict[Any, str] = {}  # recipes with equal weights and sizes have equal operations

    def counts(config: str) -> tuple[str, str] | None:
        if args.name not in config:
            return None
        cfg, model = build_recipe(config)
        shapes = tuple((name, p.shape) for name, p in model.named_parameters())
        key = (shapes, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        if key not in known:
            known[key] = count_gflops(cfg, model)
        print(f"{config}: {count_parameters(model)} M, {known[key]} GFLOPs", flush=True)
        return count_parameters(model), known[key]

    text = _rewritten(README.read_text(), counts)
    with replacing(README) as path:
        Path(path).write_text(text)


if __name__ == "__main__":
    main()
