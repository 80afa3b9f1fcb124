"""The subcommand ``evaluate``: evaluate weights on a dataset with detectron2's evaluators."""

import argparse

from ..engine import is_lazy_config
from ..errors import InputError
from . import train
from .flags import add_weights_flags, config_for_weights

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --weights and the flags of ``fcos-d2 train``."""
    add_weights_flags(parser)
    train.add_run_arguments(parser)
    parser.set_defaults(eval_only=True)


def run(args: argparse.Namespace) -> None:
    """
    Evaluate like ``train_net.py --eval-only``.

    Raises:
        InputError: If there is an error in the command, the config, the data or the weights.
    """
    if args.weights:
        args.config_file = config_for_weights(args.weights, args.config_file)
        if is_lazy_config(args.config_file):  # needs quotes around text with special characters
            weights = f"train.init_checkpoint={args.weights!r}"
        else:
            weights = f"MODEL.WEIGHTS={args.weights}"
        args.opts = [weights, *args.opts]
    elif not args.config_file:
        raise InputError("Name the weights with --weights, such as output/model_final.pth.")
    train.run(args)
