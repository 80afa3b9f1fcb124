"""
Train ours and detectron2's own FCOS class on the shapes: same backbone, data, schedule and seeds.

    python benchmarks/shapes_vs_detectron2.py [--seeds 1 2 3] [--output-dir output/benchmark] \\
        [-- KEY VALUE ...]

One run says little: the AP of either moves by one or two with the seed.

Both start from the config of `make demo`; KEY VALUE overrides it for both. detectron2's class is
itself in all else: size ranges of 4 to 8 strides (those of the demo are the same), GIoU loss
without weights, a normaliser that is a moving average. Its score threshold, of the root of class
score times centre-ness, is lowered from 0.2 to 0.05, which lets more through than ours.
Prints one line a run, and the mean and standard deviation over seeds.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.modeling import build_backbone
from detectron2.modeling.meta_arch.fcos import FCOS as Detectron2FCOS
from detectron2.modeling.meta_arch.fcos import FCOSHead as Detectron2FCOSHead
from torch import nn

from fcos_d2 import add_fcos_config, add_train_config, get_config_file, resolve_num_classes
from fcos_d2.engine import Trainer

METRICS = ("AP", "AP50", "AP75", "APs", "APm")


class Detectron2FCOSTrainer(Trainer):
    """Our trainer with detectron2's meta-architecture, which no config can name."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        backbone = build_backbone(cfg)
        names = cfg.MODEL.FCOS.IN_FEATURES
        num_classes = cfg.MODEL.FCOS.NUM_CLASSES
        assert cfg.MODEL.FCOS.NUM_CLS_CONVS == cfg.MODEL.FCOS.NUM_BOX_CONVS  # it has one number
        head = Detectron2FCOSHead(
            input_shape=[backbone.output_shape()[name] for name in names],
            conv_dims=[cfg.MODEL.FPN.OUT_CHANNELS] * cfg.MODEL.FCOS.NUM_CLS_CONVS,
            num_classes=num_classes,
            norm=cfg.MODEL.FCOS.NORM,
        )
        model = Detectron2FCOS(
            backbone=backbone,
            head=head,
            head_in_features=names,
            num_classes=num_classes,
            test_score_thresh=0.05,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
        )
        model = model.to(cfg.MODEL.DEVICE)
        if cfg.MODEL.FCOS.CHANNELS_LAST:
            model = model.to(memory_format=torch.channels_last)
        return model


def make_cfg(output_dir: Path, seed: int, opts: list[str]) -> CfgNode:
    cfg = get_cfg()
    add_fcos_config(cfg)
    add_train_config(cfg)
    cfg.merge_from_file(get_config_file("shapes/fcos_shapes_demo.yaml"))
    cfg.merge_from_list(opts)
    cfg.MODEL.FCOS.NUM_CLASSES = resolve_num_classes(cfg)
    cfg.OUTPUT_DIR = str(output_dir)
    cfg.SEED = seed
    cfg.freeze()
    return cfg


def run(trainer_class: type[Trainer], cfg: CfgNode) -> dict[str, Any]:
    default_setup(cfg, argparse.Namespace())  # seeds
    trainer = trainer_class(cfg)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    results = trainer._last_eval_results["bbox"]
    parameters = sum(p.numel() for p in trainer.model.parameters())
    return {
        **{name: round(results[name], 2) for name in METRICS},
        "seconds (with evaluations)": round(seconds),
        "parameters": parameters,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output-dir", type=Path, default=Path("output/benchmark"))
    parser.add_argument("opts", nargs="*", help="KEY VALUE ...")
    args = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {"fcos_d2": [], "detectron2": []}
    for seed in args.seeds:
        for name, trainer_class in (("fcos_d2", Trainer), ("detectron2", Detectron2FCOSTrainer)):
            cfg = make_cfg(args.output_dir / f"{name}_{seed}", seed, args.opts)
            row = {"seed": seed, **run(trainer_class, cfg)}
            rows[name].append(row)
            print(f"{name:12s}", *(f"{key}: {value}" for key, value in row.items()), sep="  ")
    (args.output_dir / "shapes_vs_detectron2.json").write_text(json.dumps(rows, indent=2))
    for name, runs in rows.items():
        for metric in METRICS:
            values = [row[metric] for row in runs]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"{name:12s}  {metric}: {statistics.mean(values):.1f} +- {spread:.1f}")


if __name__ == "__main__":
    main()
