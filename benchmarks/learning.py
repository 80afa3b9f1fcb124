"""
Train ours, detectron2's FCOS class, its RetinaNet and torchvision's FCOS: who learns how much?

    python benchmarks/learning.py [--seeds 1 2 3] [--others RetinaNet torchvision] \\
        [--dataset NAME=ANNOTATIONS.json:IMAGES/ ...] [-- KEY VALUE ...]

All have the same backbone, data, batches, schedule, seeds, optimizer and memory format: by default
those of `make demo`.
KEY VALUE overrides the config of all; with --dataset give DATASETS.TRAIN and DATASETS.TEST. Each
is itself in all else. The score thresholds of detectron2's and torchvision's FCOS, of the root of
class score times centre-ness, are lowered from 0.2 to 0.05, which lets more through than ours.

1. Equal iterations: SOLVER.MAX_ITER for all.
2. Equal time: each of the others is trained anew for as many iterations as it does while ours does
   SOLVER.MAX_ITER, its schedule stretched or shrunk to that. Within 2 % the first run stands. The
   steps of all are timed in turn, in an order shuffled anew every round.

What is trained is kept in the output directory: called again with the same settings, the script
goes on with what is missing; empty it after a change of the code. One run says little: the AP of
each moves by one or two with the seed.
"""

import argparse
import json
import logging
import math
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup
from detectron2.modeling import Backbone, build_backbone
from detectron2.utils.events import EventStorage
from learning_table import format_learning
from machine import describe_machine
from measuring import Work, median, time_interleaved
from peers import build_detectron2_fcos, build_retinanet, build_torchvision_fcos
from torch import nn

from fcos_d2 import add_fcos_config, add_train_config, get_config_file, resolve_num_classes
from fcos_d2.atomic_write import replacing
from fcos_d2.data.coco import parse_dataset, register_coco_dataset
from fcos_d2.engine import Trainer

__all__ = ["METRICS", "TRAINERS", "make_cfg", "prepare_run", "run", "time_steps"]

METRICS = ("AP", "AP50", "AP75", "APs", "APm")
_SAME_TIME = 0.02  # shares of the iterations that make no other run
_TIMED_STEPS = 60


class _OthersTrainer(Trainer):
    """Our trainer with a detector that no config of ours can name."""

    build_detector: Callable[[CfgNode, Backbone], nn.Module]

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = cls.build_detector(cfg, build_backbone(cfg)).to(cfg.MODEL.DEVICE)
        if cfg.MODEL.FCOS.CHANNELS_LAST:
            model = model.to(memory_format=torch.channels_last)
        return model


class Detectron2FCOSTrainer(_OthersTrainer):
    build_detector = partial(build_detectron2_fcos, score_thresh=0.05)


class RetinaNetTrainer(_OthersTrainer):
    build_detector = partial(build_retinanet, score_thresh=0.05)


class TorchvisionFCOSTrainer(_OthersTrainer):
    build_detector = partial(build_torchvision_fcos, score_thresh=0.05)


TRAINERS: dict[str, type[Trainer]] = {
    "fcos_d2": Trainer,
    "detectron2": Detectron2FCOSTrainer,
    "RetinaNet": RetinaNetTrainer,
    "torchvision": TorchvisionFCOSTrainer,
}


def make_cfg(
    output_dir: Path, seed: int, opts: list[Any], config: str = "shapes/fcos_shapes_demo.yaml"
) -> CfgNode:
    cfg = get_cfg()
    add_fcos_config(cfg)
    add_train_config(cfg)
    cfg.merge_from_file(get_config_file(config))
    cfg.merge_from_list(opts)
    cfg.MODEL.FCOS.NUM_CLASSES = resolve_num_classes(cfg)
    cfg.OUTPUT_DIR = str(output_dir)
    cfg.SEED = seed
    cfg.freeze()
    return cfg


def prepare_run(cfg: CfgNode) -> None:
    """
    detectron2's default_setup: seed, folder, log. The log's handlers of the run before are dropped,
    or each line would come out as often as there were runs.
    """
    for name in ("detectron2", "fvcore"):
        logging.getLogger(name).handlers.clear()
    default_setup(cfg, argparse.Namespace())


def run(trainer_class: type[Trainer], cfg: CfgNode) -> dict[str, Any]:
    """Train and evaluate: metrics and parameters."""
    prepare_run(cfg)
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    results = trainer._last_eval_results["bbox"]
    if math.isnan(results["AP"]):  # what detectron2 says where nothing at all is detected
        results = dict.fromkeys(METRICS, 0.0)
    return {
        **{name: round(results[name], 2) for name in METRICS},
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
    }


def time_steps(names: Sequence[str], cfg: CfgNode) -> dict[str, float]:
    """Median milliseconds of a training step, reading of the images included."""

    def work_of(trainer_class: type[Trainer]) -> Work:
        trainer = trainer_class(cfg)
        trainer.model.train()

        def step(_: None) -> None:
            with EventStorage():
                trainer.run_step()

        return Work(step)

    prepare_run(cfg)
    works = {name: work_of(TRAINERS[name]) for name in names}
    device = torch.device(cfg.MODEL.DEVICE).type
    milliseconds = time_interleaved(works, _TIMED_STEPS, device)
    return {name: median(values) for name, values in milliseconds.items()}


def _schedule(cfg: CfgNode, iterations: int) -> list[Any]:
    """Overrides that stretch the schedule of ``cfg`` to so many iterations."""
    factor = iterations / cfg.SOLVER.MAX_ITER
    steps = tuple(round(step * factor) for step in cfg.SOLVER.STEPS if step < cfg.SOLVER.MAX_ITER)
    return [
        "SOLVER.MAX_ITER",
        iterations,
        "SOLVER.STEPS",
        steps,
        "SOLVER.CHECKPOINT_PERIOD",
        iterations,
        "TEST.EVAL_PERIOD",
        0,
        "FCOS_TRAIN.BEST_METRIC",
        "",
    ]


class _Runs:
    """Each run once: what is in the output directory is not trained again."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.base = make_cfg(args.output_dir, 0, args.opts, args.config)
        # Runs with other settings are other runs.
        datasets = "".join(sorted(args.dataset))
        self.settings = f"{zlib.crc32((self.base.dump() + datasets).encode()):08x}"

    def get(self, name: str, iterations: int, seed: int) -> dict[str, Any]:
        folder = self.args.output_dir / self.settings / f"{name}_{iterations}_seed{seed}"
        file = folder / "result.json"
        if not file.is_file():
            opts = [*self.args.opts, *_schedule(self.base, iterations)]
            result = run(TRAINERS[name], make_cfg(folder, seed, opts, self.args.config))
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(file) as temporary:
                temporary.write_text(json.dumps({"seed": seed, **result}) + "\n")
            print(f"{name}, {iterations} iterations:", file.read_text(), end="", flush=True)
        return json.loads(file.read_text())

    def step_times(self, names: list[str]) -> dict[str, float]:
        """See ``time_steps``."""
        file = self.args.output_dir / self.settings / "step_times.json"
        times = json.loads(file.read_text()) if file.is_file() else {}
        if not times.keys() >= set(names):
            cfg = make_cfg(self.args.output_dir / "timed", 0, self.args.opts, self.args.config)
            times = time_steps(names, cfg)
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as temporary:
                temporary.write_text(json.dumps(times) + "\n")
        return times


def iterations_of_equal_time(our_step: float, their_step: float, iterations: int) -> int:
    """What another does while ours does ``iterations``, from what a step of both takes."""
    ratio = our_step / their_step
    return iterations if abs(ratio - 1) < _SAME_TIME else max(round(iterations * ratio), 1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    others = [name for name in TRAINERS if name != "fcos_d2"]
    parser.add_argument(
        "--others",
        nargs="+",
        choices=others,
        default=others,
        metavar="NAME",
        help=f"to train beside ours: {', '.join(others)}",
    )
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=ANNOTATIONS.json:IMAGES/",
        help="register a dataset in COCO's format; may be repeated",
    )
    parser.add_argument("--config", default="shapes/fcos_shapes_demo.yaml", help="in configs/")
    parser.add_argument("--output-dir", type=Path, default=Path("output/benchmark/learning"))
    parser.add_argument("opts", nargs="*", help="KEY VALUE ...")
    args = parser.parse_args(argv)
    for text in args.dataset:
        register_coco_dataset(*parse_dataset(text))

    runs = _Runs(args)
    iterations = runs.base.SOLVER.MAX_ITER
    rows: dict[str, dict[str, Any]] = {}
    names = ["fcos_d2", *args.others]
    for seed in args.seeds:  # seeds outside: what else the machine does falls on all
        for name in names:
            rows.setdefault(name, {"runs": []})["runs"].append(runs.get(name, iterations, seed))
    times = runs.step_times(names)
    for name in names:
        count = iterations_of_equal_time(times["fcos_d2"], times[name], iterations)
        rows[name]["milliseconds_a_step"] = times[name]
        rows[name]["iterations_of_equal_time"] = count
        rows[name]["runs_of_equal_time"] = [runs.get(name, count, seed) for seed in args.seeds]
    device = "cuda" if runs.base.MODEL.DEVICE.startswith("cuda") else "cpu"
    results = {
        "machine": describe_machine(device),
        "data": ", ".join(runs.base.DATASETS.TRAIN),
        "iterations": iterations,
        "images": runs.base.SOLVER.IMS_PER_BATCH,
        "rows": rows,
    }
    file = args.output_dir.parent / "learning.json"
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    print(format_learning(results))
    print(f"written: {file}")


if __name__ == "__main__":
    main()
