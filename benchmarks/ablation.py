"""
Train FCOS with and without each of its parts on the synthetic shapes, and write docs/ablation.md.

ablation.yaml lists the variants. Results are kept in the output directory. If the command is
stopped and run again, it trains only the variants that are missing.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from learning import format_spread, make_cfg, train_once
from page import format_table, replace_marked

from fcos_d2.engine import Trainer
from fcos_d2.modeling.levels import Levels, activate_ltrb
from fcos_d2.modeling.losses.quality import centerness_targets
from fcos_d2.modeling.predictions import DensePredictions

PAGE = Path(__file__).resolve().parent.parent / "docs" / "ablation.md"
_FILE = Path(__file__).with_name("ablation.yaml")
_SEEDS = (1, 2, 3)  # for the full recipe; all other variants use only the first
_ITERATIONS = 1000


def replace_quality(levels: Levels, predictions: DensePredictions) -> DensePredictions:
    """Replace the quality logits with the center-ness of the predicted boxes."""
    quality_logits = []
    for raw, stride in zip(predictions.raw_ltrb, levels.strides, strict=True):
        ltrb = activate_ltrb(raw, stride, levels.box_activation).clamp(min=1e-3)
        centerness = centerness_targets(ltrb.permute(0, 2, 3, 1))
        quality_logits.append(centerness[:, None].logit(eps=1e-6))
    return predictions._replace(quality_logits=quality_logits)


class _RegressedQualityTrainer(Trainer):
    """A trainer whose evaluation scores detections with ``replace_quality``."""

    @classmethod
    def test(cls, cfg: CfgNode, model: DenseDetector, evaluators: Any = None) -> dict[str, Any]:
        """Evaluate with the replaced quality."""
        hook = model.head.register_forward_hook(
            lambda head, inputs, predictions: replace_quality(model.levels, predictions)
        )
        with hook:
            return super().test(cfg, model, evaluators)


def read_variants() -> dict[str, list[dict[str, Any]]]:
    """Read the variants of each table: "title", "changes" (config keys -> values), "published"."""
    content = yaml.safe_load(_FILE.read_text())
    before = {step["key"]: step["before"] for step in content["steps"]}
    steps = [{**content["start"], "changes": dict(before)}]
    for step in content["steps"]:
        del before[step["key"]]
        steps.append({**step, "changes": dict(before)})
    tables = {"steps": steps, "quality": content["quality"], "single": content["single"]}
    for variant in [x for variants in tables.values() for x in variants]:
        changes = {**content["base"], **variant.get("changes", {})}
        variant["is_full_recipe"] = not variant.get("changes")
        variant["changes"] = {f"MODEL.{key}": value for key, value in changes.items()}
    return tables


def make_variant_cfg(variant: dict[str, Any], seed: int, folder: Path, opts: list[str]) -> CfgNode:
    """Make the config of a variant and a seed, each in a separate output directory."""
    changes = [x for pair in variant["changes"].items() for x in pair]
    title = "full recipe" if variant["is_full_recipe"] else variant["title"]
    name = "".join(x if x.isalnum() else "_" for x in title)
    all_opts = ["SOLVER.MAX_ITER", _ITERATIONS, *changes, *opts]
    return make_cfg(folder / f"{name}_seed{seed}", seed, all_opts)


def _train(variant: dict[str, Any], folder: Path, opts: list[str]) -> list[dict[str, float]]:
    """Train a variant with each of its seeds."""
    seeds = _SEEDS if variant["is_full_recipe"] else _SEEDS[:1]
    cfgs = [make_variant_cfg(variant, seed, folder, opts) for seed in seeds]
    regressed = variant.get("quality_of_regressed_boxes")
    return [train_once(_RegressedQualityTrainer if regressed else Trainer, cfg) for cfg in cfgs]


def run(args: argparse.Namespace) -> None:
    """Train the variants that are missing, and write the tables into the page."""
    folder, tables = args.output_dir / "ablation", read_variants()
    (full,) = (x for x in tables["single"] if x["is_full_recipe"])
    full_aps = [x["AP"] for x in _train(full, folder, args.opts)]
    spread = f"The full recipe: AP {format_spread(full_aps)} (seeds {', '.join(map(str, _SEEDS))})."
    replace_marked(args.page, "full recipe", spread)
    for table, variants in tables.items():
        lines = []
        for variant in variants:
            results = _train(variant, folder, args.opts)
            metrics = [statistics.mean(x[key] for x in results) for key in ("AP", "AP50", "APs")]
            difference = f"{metrics[0] - statistics.mean(full_aps):+.1f}"
            cells = [variant["title"], *(f"{x:.1f}" for x in metrics)]
            cells.append("-" if variant["is_full_recipe"] else difference)
            cells.append(f"{results[0]['parameters'] / 1e6:.2f}")
            lines.append([*cells, variant.get("published", "-")])
        header = ["", "AP", "AP50", "APs", "against full", "M parameters", "published"]
        replace_marked(args.page, table, format_table(header, lines))
