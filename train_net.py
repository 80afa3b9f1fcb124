#!/usr/bin/env python3
"""
Train or evaluate an FCOS, in the manner of detectron2's own tools/train_net.py.

    python train_net.py --config-file configs/fcos_R_50_FPN_1x.yaml --num-gpus 8
    python train_net.py --config-file configs/fcos_R_50_FPN_1x.yaml --num-gpus 8 --resume
    python train_net.py --config-file configs/fcos_R_50_FPN_1x.yaml --eval-only MODEL.WEIGHTS x.pth
    python train_net.py --config-file configs/shapes/fcos_shapes_demo.yaml SOLVER.MAX_ITER 100

Data of your own, in COCO's format:

    python train_net.py --config-file configs/own_data/fcos_R_50_FPN.yaml \\
        --dataset my_train=train.json:images/ --dataset my_val=val.json:images/ \\
        DATASETS.TRAIN "('my_train',)" DATASETS.TEST "('my_val',)"

On machines without a GPU, --num-gpus is the number of processes.
"""

import argparse
import logging
from typing import Any

import fcos_d2  # noqa: F401  # isort: skip  # first: it says how to get detectron2, if missing
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessRaisedException

from fcos_d2.checkpoint import FCOSCheckpointer
from fcos_d2.engine import Trainer, prepare_config
from fcos_d2.errors import InputError, WithoutInputErrors, text_for_user


def build_cfg(args: argparse.Namespace) -> CfgNode:
    """The complete and checked config: file, then overrides, then what only datasets can tell."""
    setup_logger(name="fcos_d2", distributed_rank=comm.get_rank())
    cfg = prepare_config(args.config_file, args.opts, args.dataset, args.eval_only)
    if args.eval_only and not (cfg.MODEL.WEIGHTS or args.resume):
        raise InputError(
            "--eval-only evaluates a checkpoint, but MODEL.WEIGHTS is empty. Add to the command: "
            "MODEL.WEIGHTS path/to/model_final.pth (or --resume for OUTPUT_DIR's last)"
        )
    return cfg


def main(args: argparse.Namespace) -> Any:
    """Runs in every process; returns the evaluation's results."""
    cfg = build_cfg(args)
    default_setup(cfg, args)
    logging.getLogger("fcos_d2").handlers.clear()  # build_cfg's, or each line would come twice
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="fcos_d2")
    logging.getLogger("detectron2.engine.train_loop").addFilter(WithoutInputErrors())
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = FCOSCheckpointer(model, cfg.OUTPUT_DIR, complete=True)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def build_parser() -> argparse.ArgumentParser:
    """detectron2's flags, and --dataset."""
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=ANNOTATIONS.json:IMAGES/",
        help="register a dataset in COCO's format, for DATASETS to name; may be repeated",
    )
    return parser


def invoke_main() -> None:
    """Parse the command line and start the processes."""
    parser = build_parser()
    args = parser.parse_args()
    if not args.config_file:
        parser.error("--config-file is needed, such as configs/fcos_R_50_FPN_1x.yaml")
    try:
        if args.num_gpus * args.num_machines > 1:
            build_cfg(args)  # what is wrong shall be said once, not by every process
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except (InputError, ProcessRaisedException) as error:
        text = text_for_user(error)
        if text is None:
            raise
        raise SystemExit(f"error: {text}") from None


if __name__ == "__main__":
    invoke_main()
