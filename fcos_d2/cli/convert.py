"""``fcos-d2 convert``: weights of other projects for this one, and the way back."""

import argparse
from pathlib import Path

from ..checkpoint import (
    RECIPES,
    SOURCES,
    STYLES,
    WRITABLE,
    check_output,
    load_any,
    pack_for,
    save_converted,
    save_weights,
    weights_for,
)
from ..config_checks import check_config
from ..config_loading import load_config
from ..errors import InputError
from ..output_files import check_writable
from .flags import add_config_flag, add_opts_flag, config_for_weights

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("weights", type=Path, help="of another project; with --to, of this one")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="Y.pth",
        help=".pth or .safetensors; the config is written beside it, as .yaml",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument(
        "--from", dest="source", choices=list(SOURCES), help="default: detected from the names"
    )
    parser.add_argument(
        "--recipe",
        choices=list(RECIPES),
        help="of a source whose weights do not show it: "
        "improved (relu, strides, center sampling), or the version of ICCV 2019 (exp, pixels)",
    )
    parser.add_argument(
        "--backbone-style",
        choices=list(STYLES),
        help="of mmdet: order of channels, pixel statistics and place of the stride",
    )
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument(
        "--coco80", action="store_true", help="of torchvision's 91 class rows, keep COCO's 80"
    )
    rows.add_argument(
        "--drop-background-row",
        action="store_true",
        help="of torchvision's class rows on own "
        "data, leave out the first, which stands for the background",
    )
    parser.add_argument(
        "--allow-missing",
        nargs="+",
        default=[],
        metavar="NAME",
        help="weights that may be missing; they get initial values",
    )
    parser.add_argument("--to", choices=WRITABLE, help="the way back, for weights of this project")
    add_config_flag(
        parser,
        "of the model, where WEIGHTS are of this project or of a backbone alone; with --to the "
        "default is the .yaml with the name of WEIGHTS, or config.yaml",
    )
    add_opts_flag(parser)


def run(args: argparse.Namespace) -> None:
    """
    Write the weights, and print what was chosen, assumed and left out.

    Raises:
        InputError: nothing is written.
    """
    if args.config_file or args.to:
        _convert_for_config(args)
        return
    check_output(args.output, [args.weights], overwrite=args.overwrite)
    check_writable(args.output.parent, f"--output {args.output}")
    converted = load_any(
        args.weights,
        source=args.source,
        recipe=args.recipe,
        backbone_style=args.backbone_style,
        coco80=args.coco80,
        without_background=args.drop_background_row,
        allow_missing=args.allow_missing,
        opts=args.opts,
    )
    config = save_converted(converted, args.weights, args.output)
    print(*converted.notes, sep="\n")
    for key, value in converted.assumed.items():
        print(f"assumed, as the file does not say: {key} = {value}")
    for difference in converted.differences:
        print(f"still differs from its owner's: {difference}")
    print(f"{len(converted.weights)} weights: {args.output}; their config: {config}")


def _convert_for_config(args: argparse.Namespace) -> None:
    """Convert with a config: the way back, a model of this project, or a backbone alone."""
    for flag in (
        "source",
        "recipe",
        "backbone_style",
        "coco80",
        "drop_background_row",
        "allow_missing",
    ):
        if getattr(args, flag):
            name = "--from" if flag == "source" else f"--{flag.replace('_', '-')}"
            raise InputError(f"{name} has no meaning with a config, which says it all.")
    config_file = config_for_weights(args.weights, args.config_file)
    inputs = [args.weights, Path(config_file)]
    check_output(args.output, inputs, with_config=False, overwrite=args.overwrite)
    check_writable(args.output.parent, f"--output {args.output}")
    cfg = load_config(config_file, args.opts)
    check_config(cfg)
    if args.to:
        weights, content, notes = pack_for(
            args.to, args.weights, cfg, list(cfg.FCOS_TRAIN.CLASS_NAMES)
        )
        if args.output.suffix == ".safetensors" and "meta" in content:
            notes.append(
                "left out: names of the classes and config, which .pth files alone have (meta)"
            )
    else:
        weights, notes = weights_for(cfg, args.weights)
        content = {"model": weights}
    print(*notes, sep="\n")
    save_weights(weights, content, args.output)
    print(f"{len(weights)} weights: {args.output}")
