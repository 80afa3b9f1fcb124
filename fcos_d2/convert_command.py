"""The command ``fcos-d2 convert``: weights of other projects for this one, and the way back."""

import argparse
from pathlib import Path

from .checkpoint import (
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
from .config_checks import check_config
from .config_loading import load_config
from .engine.preflight import check_writable
from .errors import InputError

__all__ = ["add_convert_arguments", "convert"]


def add_convert_arguments(convert: argparse.ArgumentParser) -> None:
    """The command's flags."""
    convert.add_argument("weights", type=Path, help="of another project; with --to, of this one")
    convert.add_argument(
        "-o", "--output", required=True, type=Path, metavar="Y.pth",
        help=".pth or .safetensors; the config is written beside it, as .yaml",
    )  # fmt: skip
    convert.add_argument("--overwrite", action="store_true", help="replace files that exist")
    convert.add_argument(
        "--from", dest="source", choices=list(SOURCES), help="default: by the names of the weights"
    )
    convert.add_argument(
        "--recipe", choices=list(RECIPES), help="of a source whose weights do not tell: "
        "improved (relu, strides, centre sampling), or the version of ICCV 2019 (exp, pixels)",
    )  # fmt: skip
    convert.add_argument(
        "--backbone-style", choices=list(STYLES), help="of mmdet: order of channels, pixel "
        "statistics and place of the stride",
    )  # fmt: skip
    rows = convert.add_mutually_exclusive_group()
    rows.add_argument(
        "--coco80", action="store_true", help="of torchvision's 91 class rows, keep COCO's 80"
    )
    rows.add_argument(
        "--drop-background-row", action="store_true", help="of torchvision's class rows on own "
        "data, leave out the first, which stands for the background",
    )  # fmt: skip
    convert.add_argument(
        "--allow-missing", nargs="+", default=[], metavar="NAME",
        help="weights that may be missing; they get initial values",
    )  # fmt: skip
    convert.add_argument("--to", choices=WRITABLE, help="the way back; needs --config-file")
    convert.add_argument(
        "--config-file",
        help="of the model: with --to, or where WEIGHTS are this project's or a backbone's alone",
    )
    convert.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="such as INPUT.MIN_SIZE_TEST 512"
    )


def convert(args: argparse.Namespace) -> None:
    """
    Write the weights, and say what was chosen, assumed and left behind.

    Raises:
        InputError: nothing is written.
    """
    if args.config_file:
        _convert_for_config(args)
        return
    if args.to:
        raise InputError("--to needs --config-file, the config of the model.")
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
    """The way back, an own model, or a backbone alone."""
    for flag in ("source", "recipe", "backbone_style", "coco80", "drop_background_row",
                 "allow_missing"):  # fmt: skip
        if getattr(args, flag):
            name = "--from" if flag == "source" else f"--{flag.replace('_', '-')}"
            raise InputError(f"{name} has no meaning with --config-file, which says it all.")
    inputs = [args.weights, Path(args.config_file)]
    check_output(args.output, inputs, with_config=False, overwrite=args.overwrite)
    check_writable(args.output.parent, f"--output {args.output}")
    cfg = load_config(args.config_file, args.opts)
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
