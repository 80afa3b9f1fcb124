"""
Train ours, detectron2's FCOS and RetinaNet, and torchvision's FCOS on the same data.

All have the backbone, batches, schedule, seeds, optimizer and memory format of ``make demo``. Each
is trained for the same number of iterations, and for as many as it does in the time of ours.
Results are kept in the output directory. Remove them after a change of the code.
"""

import argparse
import json
import logging
import math
import statistics
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.modeling import build_backbone
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.utils.events import EventStorage
from measuring import Work, describe_machine, time_interleaved
from page import format_table, replace_marked
from peers import Detectron2, Torchvision
from torch import nn

from fcos_d2 import get_config_file, new_cfg, resolve_num_classes
from fcos_d2.atomic_write import replacing
from fcos_d2.engine import Trainer

_SAME_TIME = 0.02  # with this difference of the step times the first training counts as both
_TIMED_STEPS = 60


def _build_retinanet(cfg: CfgNode) -> nn.Module:
    """Build detectron2's RetinaNet, with the maps, the tower and the norm of our head."""
    cfg = cfg.clone()
    cfg.defrost()
    retinanet, fcos = cfg.MODEL.RETINANET, cfg.MODEL.FCOS
    retinanet.IN_FEATURES, retinanet.NUM_CLASSES = fcos.IN_FEATURES, fcos.NUM_CLASSES
    retinanet.NUM_CONVS, retinanet.NORM = fcos.NUM_CLS_CONVS, fcos.NORM
    # The defaults of detectron2's classes, which differ from those of its config.
    retinanet.SMOOTH_L1_LOSS_BETA, cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.0, 0.5
    strides = [2 ** int(name.removeprefix("p")) for name in fcos.IN_FEATURES]
    sizes = [[4 * stride * 2 ** (i / 3) for i in range(3)] for stride in strides]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = sizes
    return RetinaNet(cfg)


def _build_fcos(peer_class: type[Detectron2 | Torchvision], cfg: CfgNode) -> nn.Module:
    """Build the FCOS of another project on the backbone of ours."""
    peer = peer_class.build(cfg, build_backbone(cfg))
    peer.set_score_thresh(0.05)  # lets through more than the default of the peers, and than ours
    return peer.model


def _make_trainer(build: Callable[[CfgNode], nn.Module]) -> type[Trainer]:
    """Make the class of a trainer whose model a function builds."""

    class PeerTrainer(Trainer):
        @classmethod
        def build_model(cls, cfg: CfgNode) -> nn.Module:
            """Build the model in the memory format of ours."""
            model = build(cfg).to(cfg.MODEL.DEVICE)
            is_channels_last = cfg.MODEL.FCOS.CHANNELS_LAST
            return model.to(memory_format=torch.channels_last) if is_channels_last else model

    return PeerTrainer


TRAINERS: dict[str, type[Trainer]] = {
    "fcos_d2": Trainer,
    "detectron2": _make_trainer(partial(_build_fcos, Detectron2)),
    "RetinaNet": _make_trainer(_build_retinanet),
    "torchvision": _make_trainer(partial(_build_fcos, Torchvision)),
}


def make_cfg(output_dir: Path, seed: int, opts: Sequence[Any], iterations: int = 0) -> CfgNode:
    """Make the config of ``make demo`` with overrides, and maybe the schedule stretched."""
    cfg = new_cfg()
    cfg.merge_from_file(get_config_file("shapes/fcos_shapes_demo.yaml"))
    cfg.merge_from_list([*opts, "TEST.EVAL_PERIOD", 0, "FCOS_TRAIN.BEST_METRIC", ""])
    cfg.MODEL.FCOS.NUM_CLASSES = resolve_num_classes(cfg)
    cfg.OUTPUT_DIR, cfg.SEED = str(output_dir), seed
    whole = cfg.SOLVER.MAX_ITER
    cfg.SOLVER.MAX_ITER = cfg.SOLVER.CHECKPOINT_PERIOD = iterations or whole
    steps = (round(x * cfg.SOLVER.MAX_ITER / whole) for x in cfg.SOLVER.STEPS if x < whole)
    cfg.SOLVER.STEPS = tuple(steps)
    cfg.freeze()
    return cfg


def keep_result(cfg: CfgNode, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return a result from the file of this very config, which is computed if there is none."""
    file = Path(cfg.OUTPUT_DIR) / f"result-{zlib.crc32(cfg.dump().encode()):08x}.json"
    if not file.is_file():
        for logger in ("detectron2", "fvcore"):  # or each line is logged once for every run
            logging.getLogger(logger).handlers.clear()
        default_setup(cfg, argparse.Namespace())
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(compute()))
    return json.loads(file.read_text())


def train_once(trainer_class: type[Trainer], cfg: CfgNode) -> dict[str, float]:
    """Train and evaluate, unless the result is in the output directory already."""

    def train() -> dict[str, float]:
        trainer = trainer_class(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        metrics = trainer._last_eval_results["bbox"]
        parameters = sum(x.numel() for x in trainer.model.parameters())
        # AP is NaN where nothing is detected.
        known = {key: 0.0 if math.isnan(value) else value for key, value in metrics.items()}
        return {**known, "parameters": parameters}

    return keep_result(cfg, train)


def time_steps(cfg: CfgNode) -> dict[str, float]:
    """Return the median milliseconds of a training step, with the reading of images."""

    def make_work(trainer: Trainer) -> Work:
        def step(_: None) -> None:
            with EventStorage():
                trainer.run_step()

        return Work(step, trainer.model.train)

    def measure() -> dict[str, float]:
        works = {name: make_work(trainer(cfg)) for name, trainer in TRAINERS.items()}
        times = time_interleaved(works, _TIMED_STEPS, torch.device(cfg.MODEL.DEVICE).type)
        return {name: statistics.median(x) for name, x in times.items()}

    return keep_result(cfg, measure)


def iterations_in_same_time(times: dict[str, float], name: str, iterations: int) -> int:
    """Compute how many iterations a detector does in the time of ours, from the step times."""
    ratio = times["fcos_d2"] / times[name]
    return iterations if abs(ratio - 1) < _SAME_TIME else max(round(iterations * ratio), 1)


def format_spread(values: Sequence[float]) -> str:
    """Format the mean and, of several values, the standard deviation."""
    spread = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def run(args: argparse.Namespace) -> None:
    """Train what is missing, and write the table into the page."""
    folder = args.output_dir / "learning"
    cfg = make_cfg(folder / "timing", 0, args.opts)
    times, iterations, rows = time_steps(cfg), cfg.SOLVER.MAX_ITER, []
    for name, trainer in TRAINERS.items():
        aps = {}
        for number in (iterations, iterations_in_same_time(times, name, iterations)):
            results = []
            for seed in args.seeds:
                run_folder = folder / f"{name}_{number}_seed{seed}"
                results.append(train_once(trainer, make_cfg(run_folder, seed, args.opts, number)))
            aps[number] = format_spread([x["AP"] for x in results])
        cells = [f"{results[0]['parameters'] / 1e6:.2f}", f"{times[name]:.0f}", aps[iterations]]
        rows.append([name, *cells, str(number), aps[number]])
    header = ["", "parameters, M", "ms a step", f"AP after {iterations} iterations"]
    table = format_table([*header, "iterations in the time of fcos_d2", "AP then"], rows)
    machine = describe_machine(torch.device(cfg.MODEL.DEVICE).type)
    runs = f"{cfg.SOLVER.IMS_PER_BATCH} images an iteration, seeds {args.seeds}"
    text = f"{machine}. {runs}; box AP, mean +- standard deviation."
    replace_marked(args.page, "learning", f"{text}\n\n{table}")
