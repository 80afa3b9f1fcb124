"""The command ``fcos-d2``; the module of a subcommand is imported only if it is needed."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from ..logs import log_to_terminal
from .edge import exit_on_input_error
from .flags import parse_arguments

__all__ = ["SUBCOMMANDS", "main"]

SUBCOMMANDS = {
    "train": "train a detector",
    "evaluate": "evaluate weights on a dataset",
    "predict": "detect objects in images, and write pictures and a JSON file",
    "visualize": "draw detections next to annotations, from the results of an evaluation",
    "check-dataset": "look for mistakes in a dataset in COCO format",
    "convert": "convert weights from and to other projects",
    "export": "write a model to a file that runs without detectron2: ONNX or .pt2",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run the command line ``fcos-d2 ARGUMENTS``.

    Args:
        arguments (Sequence[str]): The arguments, by default ``sys.argv[1:]``.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    selected = next((x for x in arguments if not x.startswith("-")), None)
    parser = argparse.ArgumentParser(prog="fcos-d2", description="FCOS for detectron2.")
    subparsers = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
    with exit_on_input_error():
        for name, text in SUBCOMMANDS.items():
            description = f"{text[0].upper()}{text[1:]}."
            subparser = subparsers.add_parser(name, help=text, description=description)
            if name == selected:
                module = import_module(f".{name.replace('-', '_')}", __name__)
                module.add_arguments(subparser)
        args = parse_arguments(parser, arguments)
        log_to_terminal()
        module.run(args)
