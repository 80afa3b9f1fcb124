"""The subcommand ``predict``: write the detections in images as pictures and as a JSON file."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from detectron2.structures import Instances
from PIL import Image

from ..atomic_write import replacing
from ..data.images import image_to_array, open_image
from ..drawing import DrawableNames, Picture, draw_boxes, drawable_names, save_picture
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
from .flags import add_opts_flag, add_weights_flags, config_for_weights, parse_score

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    images_help = f"image files, or folders with files that end in {', '.join(IMAGE_SUFFIXES)}"
    parser.add_argument("images", type=Path, nargs="+", help=images_help)
    add_weights_flags(parser, required=True)
    parser.add_argument("--output", required=True, type=Path, help="folder for the results")
    score_help = "lowest score of the detections to write (default: %(default)s)"
    parser.add_argument("--score-thresh", type=parse_score, default=0.4, help=score_help)
    parser.add_argument(
        "--class-agnostic",
        action="store_true",
        help="find each object once: boxes suppress overlapping boxes of other classes too",
    )
    add_opts_flag(parser)


def run(args: argparse.Namespace) -> None:
    """
    Write a picture for each image, and predictions.json.

    An error about an image that cannot be used is printed to stderr, and the other images are still
    processed.

    Raises:
        InputError: If the command cannot run, or if some images could not be used.
    """
    if not args.weights:
        raise InputError("--weights is empty. Name a checkpoint, such as output/model_final.pth.")
    files = find_images(args.images)
    results = args.output / "predictions.json"
    outputs = name_outputs([file.name for file in files], files, args.output)
    check_no_input_replaced([results], files)
    config_file = config_for_weights(args.weights, args.config_file)
    check_writable(args.output, f"--output {args.output}")
    opts = ["MODEL.WEIGHTS", args.weights, *args.opts]
    if args.class_agnostic:
        opts += ["MODEL.FCOS.CLASS_AGNOSTIC_NMS", "True"]
    cfg = load_prediction_config(config_file, opts)
    predictor = Predictor(cfg)
    names = class_names(cfg, predictor.model.num_classes)
    shown_names = drawable_names(names)
    detections: list[dict[str, Any]] = []
    num_unusable = 0
    for file, output in zip(files, outputs, strict=True):
        try:
            image = open_image(file)
            instances = predictor(image)
        except InputError as error:
            where = "" if error.file else f"{file}: "
            print(f"error: {where}{error}", file=sys.stderr)
            num_unusable += 1
            continue
        instances = instances[instances.scores >= args.score_thresh]
        detections += detections_as_dicts(file, instances, names)
        save_picture(_draw(image, instances, shown_names), output)
    with replacing(results) as temporary:
        temporary.write_text(json.dumps(detections, indent=1))
    print(f"{len(detections)} objects in {len(files) - num_unusable} images: {args.output}")
    if num_unusable:
        raise InputError(
            f"{num_unusable} of {len(files)} images could not be used; their errors are above. "
            f"{results} has the results of the others."
        )


def _draw(image: Image.Image, instances: Instances, class_names: DrawableNames) -> Picture:
    """Draw boxes with class names and scores on an image."""
    classes = instances.pred_classes.tolist()
    scores = instances.scores.tolist()
    labels = [f"{class_names.names[k]} {x:.0%}" for k, x in zip(classes, scores, strict=True)]
    return draw_boxes(
        image_to_array(image, "RGB"),
        instances.pred_boxes.tensor.numpy(),
        classes,
        labels,
        families=class_names.families,
    )
