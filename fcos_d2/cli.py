"""The command ``fcos-d2``: each subcommand parses, and calls one function of the package."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .visualization import draw_comparisons

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ``arguments`` default to the command line's."""
    parser = argparse.ArgumentParser(
        prog="fcos-d2", description="Tools around FCOS for detectron2."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    visualize = commands.add_parser(
        "visualize", help="draw detections beside annotations, from an evaluation's results"
    )
    visualize.add_argument("--dataset", required=True, help="name of a registered dataset")
    visualize.add_argument(
        "--results", required=True, type=Path, help="coco_instances_results.json of an evaluation"
    )
    visualize.add_argument("--output", required=True, type=Path, help="folder for the pictures")
    visualize.add_argument("--score-thresh", type=float, default=0.4, help="default: %(default)s")
    visualize.add_argument("--num-images", type=int, default=16, help="default: %(default)s")
    visualize.set_defaults(run=_visualize)

    args = parser.parse_args(arguments)
    args.run(args, parser)


def _visualize(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if not args.results.is_file():
        parser.error(f"--results {args.results}: no such file; an evaluation writes it")
    if args.num_images < 1:
        parser.error(f"--num-images {args.num_images} must be at least 1")
    args.output.mkdir(parents=True, exist_ok=True)
    pictures = draw_comparisons(args.dataset, args.results, args.score_thresh, args.num_images)
    count = 0
    for name, picture in pictures:
        path = args.output / f"{Path(name).stem}.png"
        temporary = path.with_suffix(".partial.png")
        Image.fromarray(picture).save(temporary)
        os.replace(temporary, path)
        count += 1
    print(f"{count} pictures in {args.output}")


if __name__ == "__main__":
    main()
