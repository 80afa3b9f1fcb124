"""The command ``fcos-d2``: each subcommand parses, and calls a few functions of the package."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger
from PIL import Image

from .atomic_write import replacing
from .convert_command import add_convert_arguments, convert
from .data.coco import check_datasets, parse_dataset, register_coco_dataset
from .data.coco.report import describe, find_image_problems, log_warnings
from .data.images import image_to_array, open_image
from .engine import load_prediction_config
from .engine.preflight import check_writable
from .errors import InputError
from .output_files import check_no_input_replaced, flat_names, name_outputs
from .prediction import (
    IMAGE_SUFFIXES,
    Predictor,
    class_names,
    detections_as_dicts,
    find_images,
)
from .visualization import (
    Picture,
    draw_boxes,
    draw_comparison,
    read_detections,
    sample_records,
)

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
    predict.add_argument(
        "images",
        type=Path,
        nargs="+",
        help=f"image files, or folders: of these, files that end in {', '.join(IMAGE_SUFFIXES)}",
    )
    predict.add_argument("--config-file", required=True, help="such as output/config.yaml")
    predict.add_argument("--weights", required=True, help="such as output/model_final.pth")
    predict.add_argument("--output", required=True, type=Path, help="folder for the results")
    predict.add_argument("--score-thresh", type=_score, default=0.4, help="default: %(default)s")
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
    visualize.add_argument("--score-thresh", type=_score, default=0.4, help="default: %(default)s")
    visualize.add_argument("--num-images", type=int, default=16, help="default: %(default)s")

    add_convert_arguments(
        add(convert, "convert", "make weights of other projects ours, or ours theirs")
    )

    args = parser.parse_args(arguments)
    setup_logger(name="fcos_d2")
    try:
        args.run(args)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


def _score(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def _check_dataset(args: argparse.Namespace) -> None:
    if args.annotations.is_dir():
        swapped = " The arguments are the wrong way round." * args.images.is_file()
        raise InputError(
            f"{args.annotations} is a folder, but the first argument is the annotation file and "
            f"the second the images' folder.{swapped}"
        )
    if args.images.is_file():
        raise InputError(f"{args.images} is a file; it must be the images' folder.")
    name = args.annotations.stem
    if name in DatasetCatalog:  # one of detectron2's, or of this project
        name = str(args.annotations.absolute())
    dataset = register_coco_dataset(name, args.annotations, args.images)
    try:
        print(describe(dataset))
        log_warnings(dataset)
        # What training would say of it.
        check_datasets(len(dataset.content["categories"]), [name], [], {name: dataset})
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    if args.decode:
        problems = list(find_image_problems(dataset))
        for problem in problems:
            print(problem.text)
        num_fatal = sum(problem.is_fatal for problem in problems)
        if num_fatal:
            raise InputError(f"{num_fatal} of {len(dataset.files())} images cannot be used.")
    print("No mistake that would stop training was found.")


def _predict(args: argparse.Namespace) -> None:
    if not args.weights:
        raise InputError("--weights is empty: name a checkpoint, such as output/model_final.pth")
    files = find_images(args.images)
    results = args.output / "predictions.json"
    outputs = name_outputs([file.name for file in files], files, args.output)
    check_no_input_replaced([results], files)
    check_writable(args.output, f"--output {args.output}")
    cfg = load_prediction_config(args.config_file, ["MODEL.WEIGHTS", args.weights, *args.opts])
    predictor = Predictor(cfg)
    names = class_names(cfg, predictor.model.num_classes)
    found: list[dict[str, Any]] = []
    num_damaged = 0
    for file, output in zip(files, outputs, strict=True):
        try:
            instances = predictor(file)
        except InputError as error:  # the others can do without it
            print(f"error: {error}", file=sys.stderr)
            num_damaged += 1
            continue
        instances = instances[instances.scores >= args.score_thresh]
        found += detections_as_dicts(file, instances, names)
        labels = [
            f"{names[k]} {score:.0%}"
            for k, score in zip(instances.pred_classes, instances.scores, strict=True)
        ]
        picture = draw_boxes(
            image_to_array(open_image(file), "RGB"),
            instances.pred_boxes.tensor.numpy(),
            instances.pred_classes.tolist(),
            labels,
        )
        _save(picture, output)
    with replacing(results) as temporary:
        temporary.write_text(json.dumps(found, indent=1))
    print(f"{len(found)} objects in {len(files) - num_damaged} images: {args.output}")
    if num_damaged:
        raise InputError(
            f"{num_damaged} of {len(files)} images could not be used; each is named above. "
            f"{results} has the others."
        )


def _visualize(args: argparse.Namespace) -> None:
    if not args.results.is_file():
        raise InputError(f"--results {args.results}: no such file; an evaluation writes it.")
    if args.num_images < 1:
        raise InputError(f"--num-images {args.num_images} must be at least 1.")
    name = args.dataset
    if "=" in name:
        name = register_coco_dataset(*parse_dataset(name)).description.name
    records = sample_records(name, args.num_images)
    detections = read_detections(args.results, name)
    metadata = MetadataCatalog.get(name)
    files = [record["file_name"] for record in records]
    outputs = name_outputs(flat_names(files, metadata.get("image_root")), files, args.output)
    check_writable(args.output, f"--output {args.output}")
    for record, output in zip(records, outputs, strict=True):
        found = detections.get(record["image_id"], [])
        picture = draw_comparison(record, found, metadata.thing_classes, args.score_thresh)
        _save(picture, output)
    print(f"{len(outputs)} pictures in {args.output}")


def _save(picture: Picture, path: Path) -> None:
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary)


if __name__ == "__main__":
    main()
