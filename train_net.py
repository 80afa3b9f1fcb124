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

A .py file is taken as a LazyConfig, and run: its overrides are those of detectron2's lazy syntax.

On machines without a GPU, --num-gpus is the number of processes.
"""

import argparse
from typing import Any

import fcos_d2  # noqa: F401  # isort: skip  # first: it says how to get detectron2, if missing
import torch
from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessRaisedException

from fcos_d2.checkpoint import FCOSCheckpointer
from fcos_d2.engine import (
    Trainer,
    evaluate_lazy_config,
    is_lazy_config,
    launch_run,
    set_up_run,
    train_lazy_config,
)
from fcos_d2.errors import InputError, find_input_error


def main(cfg: Any, args: argparse.Namespace) -> Any:
    """Runs in every process; returns the evaluation's results."""
    setup_logger(name="fcos_d2", distributed_rank=comm.get_rank())
    set_up_run(cfg, args)
    if is_lazy_config(args.config_file):
        run = evaluate_lazy_config if args.eval_only else train_lazy_config
        return run(cfg, resume=args.resume)
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
    parser.set_defaults(dist_url="auto")  # a free port; detectron2's is one for all runs of a user
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
    num_devices = torch.cuda.device_count()
    if args.num_gpus < 1 or (num_devices and args.num_gpus > num_devices):
        parser.error(f"--num-gpus {args.num_gpus} must be from 1 to {num_devices or 'your cores'}")
    if args.num_machines > 1 and args.dist_url == "auto":
        parser.error("--num-machines needs --dist-url, such as tcp://ADDRESS_OF_MACHINE_0:PORT")
    try:
        setup_logger(name="fcos_d2")
        launch_run(main, args)
    except (InputError, ProcessRaisedException) as error:
        found = find_input_error(error)
        if found is None:
            raise
        raise SystemExit(f"error: {found.text}") from None


if __name__ == "__main__":
    invoke_main()
