"""The subcommand ``predict``: write the detections in images as pictures and as a JSON file."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import Instances
from numpy.typing import NDArray

from ..atomic_write import replacing
from ..data.image_search import describe_left_out, find_images
from ..data.images import image_to_array, open_image
from ..drawing import (
    DrawableNames,
    DrawnObjects,
    Picture,
    Skeleton,
    build_skeleton,
    draw_objects,
    drawable_names,
    save_picture,
    scores_to_visibility,
)
from ..engine import load_prediction_config
from ..errors import InputError, agree, count_words
from ..export import ExportedPredictor, is_exported_name
from ..modeling import FCOS, resolve_num_classes
from ..modeling.two_stage import has_roi_heads
from ..output_files import (
    check_no_input_replaced,
    check_not_an_input,
    check_own_files,
    check_writable,
    flat_names,
    name_outputs,
)
from ..prediction import (
    ImagePredictor,
    Predictor,
    class_names,
    detections_as_dicts,
    keypoint_metadata,
)
from .flags import add_opts_flag, add_weights_flags, config_for_weights, parse_score

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    images_help = "image files, or folders: all files in them that PIL can open"
    parser.add_argument("images", type=Path, nargs="+", help=images_help)
    parser.add_argument("--recursive", action="store_true", help="search subfolders, too")
    weights_help = "weights file, such as output/model_final.pth, or an exported model.onnx or .pt2"
    add_weights_flags(parser, required=True, weights_help=weights_help)
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
    found = find_images(args.images, recursive=args.recursive, output=args.output)
    for line in describe_left_out(found):
        print(line)
    files = found.images
    results = args.output / "predictions.json"
    output_names = flat_names(files) if args.recursive else [file.name for file in files]
    outputs = name_outputs(output_names, files, args.output)
    check_no_input_replaced([results], files)
    check_not_an_input(args.output, args.images)
    check_own_files(outputs, results)
    if args.recursive and any(_is_inside(args.output, x) for x in args.images):
        print(f"Left out: {args.output}, the folder for results.")
    is_exported = is_exported_name(args.weights)
    if not is_exported:
        args.config_file = config_for_weights(args.weights, args.config_file)
    check_writable(args.output, f"--output {args.output}")
    build = _build_exported if is_exported else _build_predictor
    predictor, names, skeleton = build(args)
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
        pixels = image_to_array(image, "RGB", predictor.preparation.white_point)
        save_picture(_draw(pixels, instances, shown_names, skeleton), output)
    with replacing(results) as temporary:
        temporary.write_text(json.dumps(detections, indent=1))
    num_objects = count_words(len(detections), "{object|objects}")
    num_images = count_words(len(files) - num_unusable, "{image|images}")
    print(f"{num_objects} in {num_images}: {args.output}")
    if num_unusable:
        raise InputError(
            f"{num_unusable} of {count_words(len(files), '{image|images}')} could not be used; "
            f"{agree('{its error is|their errors are}', num_unusable)} above. {results} has the "
            "results of the others."
        )


def _build_predictor(args: argparse.Namespace) -> tuple[ImagePredictor, list[str], Skeleton]:
    """Build the model of a config; return it with the names of its classes and its skeleton."""
    opts = ["MODEL.WEIGHTS", args.weights, *args.opts]
    if args.class_agnostic:
        opts += ["MODEL.FCOS.CLASS_AGNOSTIC_NMS", "True"]
    cfg = load_prediction_config(args.config_file, opts)
    if args.class_agnostic and has_roi_heads(cfg):
        raise InputError(
            "--class-agnostic cannot be used with detectron2's ROI heads. Leave it out."
        )
    skeleton = build_skeleton(*keypoint_metadata(cfg))
    predictor = Predictor(cfg)
    if isinstance(predictor.model, FCOS):
        _compare_thresholds(
            args.score_thresh, cfg.MODEL.FCOS.SCORE_THRESH_TEST, "To find them, add"
        )
    return predictor, class_names(cfg, resolve_num_classes(cfg)), skeleton


def _build_exported(args: argparse.Namespace) -> tuple[ImagePredictor, list[str], Skeleton]:
    """Load an exported model; return it with the names of its classes and an empty skeleton."""
    given = {
        "--config-file": args.config_file,
        "--class-agnostic": args.class_agnostic,
        **{x: x for x in args.opts},
    }
    used = [name for name, value in given.items() if value]
    if used:
        raise InputError(
            f"The settings of {args.weights} were fixed when it was exported. Leave out "
            f"{', '.join(used)}, or export the model again with other settings.",
            key=used[0].partition("=")[0],
        )
    predictor = ExportedPredictor(args.weights)
    _compare_thresholds(
        args.score_thresh, predictor.info.score_thresh, "To find them, export the model with"
    )
    return predictor, predictor.info.class_names, build_skeleton([], [])


def _is_inside(folder: Path, other: Path) -> bool:
    """Return whether a folder exists and lies below another one."""
    return folder.is_dir() and other.absolute() in folder.absolute().parents


def _compare_thresholds(score_thresh: float, lowest: float | None, advice: str) -> None:
    """Print a line if the threshold of the command is below that of the model."""
    if lowest is not None and score_thresh < lowest:
        print(
            f"--score-thresh {score_thresh:g} is below MODEL.FCOS.SCORE_THRESH_TEST = {lowest:g}: "
            "objects with a class score below that are not found. "
            f"{advice} MODEL.FCOS.SCORE_THRESH_TEST={score_thresh:g}"
        )


def _draw(
    pixels: NDArray[np.uint8], instances: Instances, class_names: DrawableNames, skeleton: Skeleton
) -> Picture:
    """Draw detections with class names and scores on the pixels (H, W, 3) of an image."""
    classes = instances.pred_classes.tolist()
    masks = instances.pred_masks.bool().numpy() if instances.has("pred_masks") else ()
    keypoints = instances.pred_keypoints.numpy() if instances.has("pred_keypoints") else ()
    objects = DrawnObjects(
        instances.pred_boxes.tensor.numpy(),
        classes,
        [class_names.names[k] for k in classes],
        [*masks],
        [scores_to_visibility(x) for x in keypoints],
        skeleton,
        instances.scores.tolist(),
    )
    return draw_objects(pixels, objects, families=class_names.families)
