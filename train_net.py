#!/usr/bin/env python3
"""
Train or evaluate an FCOS, in the manner of detectron2's own tools/train_net.py.

    python train_net.py --config-file configs/fcos_R_50_FPN_1x.yaml --num-gpus 8
    python train_net.py --config-file configs/fcos_R_50_FPN_1x.yaml --num-gpus 8 --resume
    python train_net.py --config-file configs/fcos_R_50_FPN_1x.yaml --eval-only MODEL.WEIGHTS x.pth
    python train_net.py --config-file configs/shapes/fcos_shapes_demo.yaml SOLVER.MAX_ITER 100

On machines without a GPU, --num-gpus is the number of processes.
"""

import argparse
from typing import Any

import fcos_d2  # isort: skip  # first: it says how to get detectron2, should that be missing
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from fcos_d2.engine import Trainer


def setup(args: argparse.Namespace) -> CfgNode:
    """The complete config: file, then overrides, then what only the dataset can tell."""
    cfg = get_cfg()
    fcos_d2.add_fcos_config(cfg)
    fcos_d2.add_train_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    if torch.device(cfg.MODEL.DEVICE).type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            f"error: MODEL.DEVICE = {cfg.MODEL.DEVICE!r}, but PyTorch finds no usable CUDA device "
            "here. To use the CPU, add to the command: MODEL.DEVICE cpu"
        )
    if args.eval_only and not (cfg.MODEL.WEIGHTS or args.resume):
        raise SystemExit(
            "error: --eval-only evaluates a checkpoint, but MODEL.WEIGHTS is empty. Add to the "
            "command: MODEL.WEIGHTS path/to/model_final.pth (or --resume for OUTPUT_DIR's last)"
        )
    cfg.MODEL.FCOS.NUM_CLASSES = fcos_d2.resolve_num_classes(cfg)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="fcos_d2")
    return cfg


def main(args: argparse.Namespace) -> Any:
    """Runs in every process; returns the evaluation's results."""
    cfg = setup(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def invoke_main() -> None:
    """Parse the command line and start the processes."""
    parser = default_argument_parser(epilog=__doc__)
    args = parser.parse_args()
    if not args.config_file:
        parser.error("--config-file is needed, such as configs/fcos_R_50_FPN_1x.yaml")
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    invoke_main()
