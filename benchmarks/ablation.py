"""
Train the steps of the papers' tables, and single changes, on the drawn shapes; write a page of it.

    python benchmarks/ablation.py [--only NAME ...] [--output-dir output/ablation]
                                  [-- KEY VALUE ...]

What is trained is kept in the output directory: called again, the script goes on with what is
missing, and refuses what was trained with another config. With --only it trains no more than these
variants and writes no page: several processes can share the work, if variants that differ in
evaluation alone (such as nms and p4_for_top_level) go to one. KEY VALUE overrides all configs.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml
from ablation_page import write_page
from ablation_variants import SEEDS_OF_FULL_RECIPE, VARIANTS, Variant
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from learning import METRICS, make_cfg, prepare_run
from torch import Tensor, nn

from fcos_d2 import FCOS
from fcos_d2.atomic_write import replacing
from fcos_d2.checkpoint import FCOSCheckpointer
from fcos_d2.engine import Trainer
from fcos_d2.modeling.levels import Levels, activate_ltrb
from fcos_d2.modeling.losses.quality import centerness_targets
from fcos_d2.modeling.predictions import DensePredictions

MAX_ITER = 1000


class QualityOfRegressedBoxes(nn.Module):
    """A head whose quality logits are the centre-ness of the boxes that it regresses itself."""

    def __init__(self, head: nn.Module, levels: Levels) -> None:
        super().__init__()
        self.head = head
        self.levels = levels

    def forward(self, features: list[Tensor]) -> DensePredictions:
        predictions = self.head(features)
        quality_logits = []
        for raw, stride in zip(predictions.raw_ltrb, self.levels.strides, strict=True):
            ltrb = activate_ltrb(raw, stride, self.levels.box_activation).clamp(min=1e-3)
            centerness = centerness_targets(ltrb.permute(0, 2, 3, 1))
            quality_logits.append(centerness[:, None].logit(eps=1e-6))
        return predictions._replace(quality_logits=quality_logits)


def config_of(variant: Variant, seed: int, output_dir: Path, opts: list[str]) -> CfgNode:
    schedule = {
        "SOLVER.MAX_ITER": MAX_ITER,
        "SOLVER.CHECKPOINT_PERIOD": MAX_ITER,
        "TEST.EVAL_PERIOD": 0,
        "FCOS_TRAIN.BEST_METRIC": "",
    }
    pairs = {**schedule, **variant.opts}
    merged = [item for pair in pairs.items() for item in pair]
    return make_cfg(output_dir, seed, [*merged, *opts])


def train(cfg: CfgNode) -> Path:
    """The weights, trained unless they are there."""
    weights = Path(cfg.OUTPUT_DIR) / "model_final.pth"
    if weights.is_file():
        _check_same(weights.with_name("config.yaml"), cfg.dump())
    else:
        prepare_run(cfg)
        Trainer(cfg).train()
    return weights


def evaluate(variant: Variant, cfg: CfgNode, weights: Path) -> dict[str, float]:
    model = Trainer.build_model(cfg)
    assert isinstance(model, FCOS)
    FCOSCheckpointer(model).load(str(weights))
    if variant.quality_of_regressed_boxes:
        model.head = QualityOfRegressedBoxes(model.head, model.levels)
    with EventStorage():
        results = Trainer.test(cfg, model)["bbox"]
    return {
        **{name: results[name] for name in METRICS},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "images": cfg.SOLVER.IMS_PER_BATCH,
        "iterations": cfg.SOLVER.MAX_ITER,
    }


def run(variant: Variant, seed: int, output_dir: Path, opts: list[str]) -> dict[str, float]:
    """Variants that differ in evaluation alone share their weights."""
    trained = next(other for other in VARIANTS if other.training_opts == variant.training_opts)
    folder = output_dir / f"{trained.name}_seed{seed}"
    cfg = config_of(variant, seed, folder, opts)
    file = output_dir / f"{variant.name}_seed{seed}.json"
    config_file = file.with_suffix(".yaml")
    if file.is_file():
        _check_same(config_file, cfg.dump())
        return json.loads(file.read_text())
    weights = train(config_of(trained, seed, folder, opts))
    result = evaluate(variant, cfg, weights)
    with replacing(config_file) as temporary_config, replacing(file) as temporary:
        temporary_config.write_text(cfg.dump())
        temporary.write_text(json.dumps(result))
    print(variant.name, f"seed {seed}", {name: round(result[name], 2) for name in METRICS})
    return result


def _check_same(config_file: Path, config: str) -> None:
    """What is there is used again only if it is of this very config."""
    if yaml.safe_load(config_file.read_text()) != yaml.safe_load(config):
        raise SystemExit(
            f"error: {config_file} is of another config than this run's. Remove it with what "
            "lies beside it, or choose another --output-dir."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--output-dir", type=Path, default=Path("output/ablation"))
    parser.add_argument("--page", type=Path, default=Path("docs/ablation.md"))
    parser.add_argument("opts", nargs="*", help="KEY VALUE ...")
    args = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {}
    for variant in VARIANTS:
        if args.only and variant.name not in args.only:
            continue
        seeds = SEEDS_OF_FULL_RECIPE if variant.is_full_recipe else SEEDS_OF_FULL_RECIPE[:1]
        results[variant.name] = [run(variant, seed, args.output_dir, args.opts) for seed in seeds]
    if not args.only:
        write_page(args.page, results)
        print(f"written: {args.page}")


if __name__ == "__main__":
    main()
