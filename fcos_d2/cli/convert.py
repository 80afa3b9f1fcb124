"""The subcommand ``convert``: convert weights from and to other projects."""

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
    """Add the arguments of the subcommand."""
    weights_help = "weights of another project; with --to, weights of this project"
    parser.add_argument("weights", type=Path, help=weights_help)
    output_help = "a .pth or .safetensors file; the config is written next to it, as .yaml"
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="Y.pth", help=output_help
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    source_help = "project of the weights (default: detected from their names)"
    parser.add_argument("--from", dest="source", choices=list(SOURCES), help=source_help)
    recipe_help = (
        "training recipe, for weights that do not show it: improved (relu, distances in strides, "
        "center sampling) or iccv (the version of ICCV 2019: exp, distances in pixels)"
    )
    parser.add_argument("--recipe", choices=list(RECIPES), help=recipe_help)
    style_help = "for mmdet: order of channels, pixel statistics and place of the stride"
    parser.add_argument("--backbone-style", choices=list(STYLES), help=style_help)
    rows = parser.add_mutually_exclusive_group()
    coco80_help = "for torchvision: keep only COCO's 80 classes of the 91 class rows"
    rows.add_argument("--coco80", action="store_true", help=coco80_help)
    background_help = "for torchvision: drop the first class row of a model trained on own data"
    rows.add_argument("--drop-background-row", action="store_true", help=background_help)
    missing_help = "weights that may be missing; they get initial values"
    parser.add_argument("--allow-missing", nargs="+", default=[], metavar="NAME", help=missing_help)
    to_help = "convert weights of this project to another project"
    parser.add_argument("--to", choices=WRITABLE, help=to_help)
    config_help = (
        "config of the model, if the weights are those of this project or of a backbone only; with "
        "--to, the default is the .yaml with the name of the weights, or config.yaml next to them"
    )
    add_config_flag(parser, config_help)
    add_opts_flag(parser)


def run(args: argparse.Namespace) -> None:
    """
    Write the weights, and print which settings were selected, assumed and left out.

    Raises:
        InputError: If the weights cannot be converted. Then nothing is written.
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
        print(f"assumed because the file does not say: {key} = {value}")
    for difference in converted.differences:
        print(f"remaining difference from the source project: {difference}")
    print(f"{len(converted.weights)} weights: {args.output}; their config: {config}")


def _convert_for_config(args: argparse.Namespace) -> None:
    """Convert a model of this project to any project, or a backbone, with the model's config."""
    given_flags = {
        "--from": args.source,
        "--recipe": args.recipe,
        "--backbone-style": args.backbone_style,
        "--coco80": args.coco80,
        "--drop-background-row": args.drop_background_row,
        "--allow-missing": args.allow_missing,
    }
    for flag, value in given_flags.items():
        if value:
            raise InputError(
                f"{flag} has no meaning with a config, because the config has all settings. Leave "
                "it out.",
                key=flag,
            )
    config_file = config_for_weights(args.weights, args.config_file)
    inputs = [args.weights, Path(config_file)]
    check_output(args.output, inputs, with_config=False, overwrite=args.overwrite)
    check_writable(args.output.parent, f"--output {args.output}")
    cfg = load_config(config_file, args.opts)
    check_config(cfg)
    if args.to:
        class_names = list(cfg.FCOS_TRAIN.CLASS_NAMES)
        weights, content, notes = pack_for(args.to, args.weights, cfg, class_names)
        if args.output.suffix == ".safetensors" and "meta" in content:
            notes.append(
                "left out: names of the classes and config, which only .pth files can have"
            )
    else:
        weights, notes = weights_for(cfg, args.weights)
        content = {"model": weights}
    print(*notes, sep="\n")
    save_weights(weights, content, args.output)
    print(f"{len(weights)} weights: {args.output}")
