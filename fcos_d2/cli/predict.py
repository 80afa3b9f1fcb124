"""``fcos-d2 predict``: detections on images, as pictures and as one JSON file."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from detectron2.structures import Instances
from PIL import Image

from ..atomic_write import replacing
from ..data.images import image_to_array, open_image
from ..engine import load_prediction_config
from ..errors import InputError
from ..output_files import check_no_input_replaced, check_writable, name_outputs
from ..prediction import (
    IMAGE_SUFFIXES,
    Predictor,
    class_names,
    detections_as_dicts,
    find_images,
)
from ..visualization import Picture, draw_boxes, save_picture
from .flags import add_config_flag, add_opts_flag, config_for_weights, parse_score

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "images",
        type=Path,
        nargs="+",
        help=f"image files, or folders, of which files ending in {', '.join(IMAGE_SUFFIXES)}",
    )
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="such as output/model_final.pth"
    )
    add_config_flag(parser, "default: the .yaml with the name of the weights, or config.yaml")
    parser.add_argument("--output", required=True, type=Path, help="folder for the results")
    parser.add_argument(
        "--score-thresh", type=parse_score, default=0.4, help="default: %(default)s"
    )
    add_opts_flag(parser)


def run(args: argparse.Namespace) -> None:
    """
    Write a picture for each image, and predictions.json. An image that cannot be used is named on
    stderr; the others are still done.

    Raises:
        InputError: nothing could be done, or some images could not be used.
    """
    if not args.weights:
        raise InputError("--weights is empty: name a checkpoint, such as output/model_final.pth")
    files = find_images(args.images)
    results = args.output / "predictions.json"
    outputs = name_outputs([file.name for file in files], files, args.output)
    check_no_input_replaced([results], files)
    config_file = config_for_weights(args.weights, args.config_file)
    check_writable(args.output, f"--output {args.output}")
    cfg = load_prediction_config(config_file, ["MODEL.WEIGHTS", args.weights, *args.opts])
    predictor = Predictor(cfg)
    names = class_names(cfg, predictor.model.num_classes)
    found: list[dict[str, Any]] = []
    num_damaged = 0
    for file, output in zip(files, outputs, strict=True):
        try:
            image = open_image(file)
            instances = predictor(image)
        except InputError as error:
            where = "" if error.file else f"{file}: "
            print(f"error: {where}{error}", file=sys.stderr)
            num_damaged += 1
            continue
        instances = instances[instances.scores >= args.score_thresh]
        found += detections_as_dicts(file, instances, names)
        save_picture(_draw(image, instances, names), output)
    with replacing(results) as temporary:
        temporary.write_text(json.dumps(found, indent=1))
    print(f"{len(found)} objects in {len(files) - num_damaged} images: {args.output}")
    if num_damaged:
        raise InputError(
            f"{num_damaged} of {len(files)} images could not be used; each is named above. "
            f"{results} has the others."
        )


def _draw(image: Image.Image, instances: Instances, names: list[str]) -> Picture:
    labels = [
        f"{names[k]} {score:.0%}"
        for k, score in zip(instances.pred_classes, instances.scores, strict=True)
    ]
    boxes = instances.pred_boxes.tensor.numpy()
    return draw_boxes(image_to_array(image, "RGB"), boxes, instances.pred_classes.tolist(), labels)
