"""The subcommand ``train`` and the command line of ``train_net.py``."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from omegaconf import DictConfig

from ..checkpoint import FCOSCheckpointer
from ..config import get_config_file
from ..engine import (
    Trainer,
    evaluate_lazy_config,
    is_lazy_config,
    keep_config_of_refused,
    launch_run,
    load_for_evaluation,
    load_lazy_training,
    prepare_run,
    set_up_run,
)
from ..errors import InputError
from ..logs import log_to_file, log_to_terminal
from .edge import exit_on_input_error
from .flags import add_config_flag, parse_arguments

__all__ = ["add_arguments", "add_run_arguments", "build_parser", "invoke_main", "main", "run"]

logger = logging.getLogger(__name__)

_CONFIG_HELP = (
    "path of a config, or name of a config of this project; a .py file is a LazyConfig; default "
    "with --dataset: a small model for own data"
)
_EXAMPLES = """examples:
    %(prog)s --config-file fcos_R_50_FPN_1x.yaml --num-gpus 8
    %(prog)s --config-file fcos_R_50_FPN_1x.yaml --num-gpus 8 --resume
    %(prog)s --config-file shapes/fcos_shapes_demo.yaml SOLVER.MAX_ITER=100
    %(prog)s --config-file lazy/fcos_R_50_FPN.py train.max_iter=100

your own data, in COCO format; the first dataset is trained on, the second one is the test set:
    %(prog)s --config-file own_data/fcos_R_50_FPN.yaml \\
        --dataset my_train=train.json:images/ --dataset my_val=val.json:images/
"""
# The recipe for own data that needs neither a GPU nor pretrained weights nor another package.
_DEFAULT_RECIPE = "own_data/fcos_small_from_scratch.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of detectron2's tools/train_net.py and --dataset."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    add_config_flag(parser, _CONFIG_HELP)
    parser.add_argument("--eval-only", action="store_true", help="evaluate, without training")
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that training and evaluation share, except --config-file."""
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=ANNOTATIONS.json:IMAGES/",
        help="register a dataset in COCO format, to be named in DATASETS; may be repeated",
    )
    parser.add_argument(
        "--resume", action="store_true", help="resume from the last checkpoint in OUTPUT_DIR"
    )
    parser.add_argument(
        "--num-gpus",
        type=_parse_num_gpus,
        default=1,
        metavar="N",
        help="number of GPUs of this machine, or of processes if it has no GPU (default: 1)",
    )
    machines_help = "number of machines (default: 1)"
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help=machines_help)
    rank_help = "rank of this machine, from 0 (default: 0)"
    parser.add_argument("--machine-rank", type=int, default=0, metavar="N", help=rank_help)
    # "auto" is a free port; detectron2's default is the same port for all runs of a user.
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="with several machines: tcp://ADDRESS_OF_MACHINE_0:PORT",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY=VALUE",
        help="override config keys, such as SOLVER.MAX_ITER=100 or SOLVER.MAX_ITER 100; they may "
        "be anywhere in the command, with or without --opts; overrides of a LazyConfig, such as "
        "train.max_iter=100, must come after all flags",
    )


def _parse_num_gpus(text: str) -> int:
    """Parse --num-gpus, which must not exceed the number of GPUs if there are any."""
    value, available = int(text), torch.cuda.device_count()
    if value < 1 or (available and value > available):
        limit = available or "the number of CPU cores"
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to {limit}")
    return value


def run(args: argparse.Namespace) -> None:
    """
    Check the run, and start its processes.

    Raises:
        InputError: If there is an error in the command, the config, the data or the weights.
    """
    if args.num_machines > 1 and args.dist_url == "auto":
        text = "--num-machines needs --dist-url, such as tcp://ADDRESS_OF_MACHINE_0:PORT."
        raise InputError(text, key="--dist-url")
    _choose_config(args)
    launch_run(run_prepared, args)


def _choose_config(args: argparse.Namespace) -> None:
    """
    Set the config of a training on own data, if the command names none.

    Raises:
        InputError: If the command names neither a config nor a dataset, or is an evaluation.
    """
    if args.config_file:
        return
    if args.eval_only or not args.dataset:
        raise InputError(
            "Name a config with --config-file, such as fcos_R_50_FPN_1x.yaml. A training on your "
            "own data needs none: --dataset my_train=ANNOTATIONS.json:IMAGES/",
            key="--config-file",
        )
    args.config_file = get_config_file(_DEFAULT_RECIPE)
    logger.info(
        "Without --config-file, a small model is trained from random weights on the CPU (%s). With "
        "a GPU or pretrained weights, other recipes learn more: --config-file "
        "own_data/fcos_R_50_FPN.yaml",
        _DEFAULT_RECIPE,
    )


def main(args: argparse.Namespace) -> dict[str, Any] | None:
    """Check the config, train or evaluate in this process, and return the evaluation results."""
    log_to_terminal()
    _choose_config(args)
    return run_prepared(prepare_run(args, args.num_gpus * args.num_machines), args)


def run_prepared(cfg: CfgNode | DictConfig, args: argparse.Namespace) -> dict[str, Any] | None:
    """
    Train or evaluate in this process, with a checked config.

    Args:
        cfg (CfgNode or DictConfig): A config from ``engine.prepare_run``.
        args (Namespace): The parsed command line.

    Returns:
        dict: Evaluation results by task and metric. A training returns None, unless
        TEST.EXPECTED_RESULTS is set.
    """
    with keep_config_of_refused(cfg, args):
        set_up_run(cfg, args)
        with _logging_errors():
            start = _load(cfg, args)
    with _logging_errors():
        return start()


@contextmanager
def _logging_errors() -> Iterator[None]:
    """Write the traceback of an error in the block to the log file."""
    try:
        yield
    except Exception:
        log_to_file("The run ended with this error:")
        raise


def _load(
    cfg: CfgNode | DictConfig, args: argparse.Namespace
) -> Callable[[], dict[str, Any] | None]:
    """Load the checkpoint of a training; return the function that trains or evaluates."""
    is_lazy = is_lazy_config(args.config_file)
    if args.eval_only:
        return partial(evaluate_lazy_config if is_lazy else _evaluate, cfg, resume=args.resume)
    if is_lazy:
        return load_lazy_training(cfg, resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train


def _evaluate(cfg: CfgNode, resume: bool) -> dict[str, Any]:
    """Evaluate with a YAML config, and compare the results with TEST.EXPECTED_RESULTS."""
    model = Trainer.build_model(cfg)
    checkpointer = FCOSCheckpointer(model, cfg.OUTPUT_DIR, complete=True)
    load_for_evaluation(checkpointer, cfg.MODEL.WEIGHTS, resume=resume)
    results = Trainer.test_all(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of ``train_net.py``."""
    parser = argparse.ArgumentParser(description="Train or evaluate a detector.")
    add_arguments(parser)
    return parser


def invoke_main() -> None:
    """Run the command line of ``train_net.py``."""
    with exit_on_input_error():
        args = parse_arguments(build_parser(), sys.argv[1:])
        log_to_terminal()
        run(args)
