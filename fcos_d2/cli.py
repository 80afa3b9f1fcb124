"""The command ``fcos-d2``: each subcommand parses, and calls a few functions of the package."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data.detection_utils import read_image
from detectron2.utils.logger import setup_logger
from PIL import Image

from .atomic_write import replacing
from .data.coco_datasets import parse_dataset, register_coco_dataset
from .data.dataset_report import describe, find_damaged_images
from .engine.config_loading import load_config
from .errors import InputError
from .prediction import Predictor, class_names, detections_as_dicts, find_images
from .visualization import Picture, draw_boxes, draw_comparisons

__all__ = ["main"]

Command = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ``arguments`` default to the command line's."""
    parser = argparse.ArgumentParser(
        prog="fcos-d2", description="Tools around FCOS for detectron2."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def add(run: Command, name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    check = add(_check_dataset, "check-dataset", "look for mistakes in a dataset in COCO's format")
    check.add_argument("annotations", type=Path, metavar="ANNOTATIONS.json")
    check.add_argument("images", type=Path, metavar="IMAGES/")
    check.add_argument("--decode", action="store_true", help="also open every image")

    predict = add(_predict, "predict", "detect objects in images: pictures and a JSON file")
    predict.add_argument("images", type=Path, nargs="+", help="image files, or folders of them")
    predict.add_argument("--config-file", required=True, help="such as output/config.yaml")
    predict.add_argument("--weights", required=True, help="such as output/model_final.pth")
    predict.add_argument("--output", required=True, type=Path, help="folder for the results")
    predict.add_argument("--score-thresh", type=float, default=0.4, help="default: %(default)s")
    predict.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="such as MODEL.DEVICE cuda"
    )

    visualize = add(
        _visualize, "visualize", "draw detections beside annotations, from an evaluation's results"
    )
    visualize.add_argument(
        "--dataset", required=True, help="a registered name, or NAME=ANNOTATIONS.json:IMAGES/"
    )
    visualize.add_argument(
        "--results", required=True, type=Path, help="coco_instances_results.json of an evaluation"
    )
    visualize.add_argument("--output", required=True, type=Path, help="folder for the pictures")
    visualize.add_argument("--score-thresh", type=float, default=0.4, help="default: %(default)s")
    visualize.add_argument("--num-images", type=int, default=16, help="default: %(default)s")

    args = parser.parse_args(arguments)
    setup_logger(name="fcos_d2")
    try:
        args.run(args)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


def _check_dataset(args: argparse.Namespace) -> None:
    dataset = register_coco_dataset("checked", args.annotations, args.images)
    print(describe(dataset.content))
    if args.decode:
        damaged = list(find_damaged_images(dataset))
        for line in damaged:
            print(line)
        if damaged:
            raise InputError(f"{len(damaged)} images cannot be used.")
    print("No mistake that would stop training was found.")


def _predict(args: argparse.Namespace) -> None:
    files = find_images(args.images)
    cfg = load_config(args.config_file, ["MODEL.WEIGHTS", args.weights, *args.opts])
    names = class_names(cfg)
    predictor = Predictor(cfg)
    found: list[dict[str, Any]] = []
    for file in files:
        instances = predictor(file)
        instances = instances[instances.scores >= args.score_thresh]
        found += detections_as_dicts(file, instances, names)
        labels = [
            f"{names[k]} {score:.0%}"
            for k, score in zip(instances.pred_classes, instances.scores, strict=True)
        ]
        picture = draw_boxes(
            read_image(str(file), format="RGB"),
            instances.pred_boxes.tensor.numpy(),
            instances.pred_classes.tolist(),
            labels,
        )
        _save(picture, args.output / f"{file.stem}.png")
    with replacing(args.output / "predictions.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1))
    print(f"{len(found)} objects in {len(files)} images: {args.output}")


def _visualize(args: argparse.Namespace) -> None:
    if not args.results.is_file():
        raise InputError(f"--results {args.results}: no such file; an evaluation writes it.")
    if args.num_images < 1:
        raise InputError(f"--num-images {args.num_images} must be at least 1.")
    name = args.dataset
    if "=" in name:
        name = register_coco_dataset(*parse_dataset(name)).name
    count = 0
    for file, picture in draw_comparisons(name, args.results, args.score_thresh, args.num_images):
        _save(picture, args.output / f"{Path(file).stem}.png")
        count += 1
    print(f"{count} pictures in {args.output}")


def _save(picture: Picture, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary)


if __name__ == "__main__":
    main()
