"""The subcommand ``visualize``: draw the detections of an evaluation next to the annotations."""

import argparse
from pathlib import Path

from detectron2.data import MetadataCatalog

from ..data.coco import parse_dataset, register_coco_dataset
from ..data.keypoints import connection_rules_of, keypoint_names_of
from ..drawing import build_skeleton, drawable_names, save_picture
from ..errors import InputError, count_words
from ..evaluation_results import read_detections
from ..output_files import check_writable, flat_names, name_outputs
from ..visualization import draw_comparison, sample_records
from .flags import parse_score

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument(
        "--dataset", required=True, help="a registered dataset, or NAME=ANNOTATIONS.json:IMAGES/"
    )
    parser.add_argument(
        "--results", required=True, type=Path, help="coco_instances_results.json of an evaluation"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder for the pictures")
    score_help = "lowest score of the detections to draw (default: %(default)s)"
    parser.add_argument("--score-thresh", type=parse_score, default=0.4, help=score_help)
    num_help = "number of images to draw (default: %(default)s)"
    parser.add_argument("--num-images", type=int, default=16, help=num_help)


def run(args: argparse.Namespace) -> None:
    """
    Draw some images of a dataset, each with its detections and annotations.

    Raises:
        InputError: If the dataset or the results cannot be used, or the pictures cannot be
            written.
    """
    if not args.results.is_file():
        raise InputError(
            f"--results {args.results}: there is no such file. Run an evaluation first: it writes "
            "coco_instances_results.json."
        )
    if args.num_images < 1:
        raise InputError(f"--num-images {args.num_images} must be at least 1.")
    name = args.dataset
    if "=" in name:
        checked = register_coco_dataset(
            *parse_dataset(name), is_training_set=False, is_test_set=True, skip_setting=""
        )
        name = checked.description.name
    records = sample_records(name, args.num_images)
    detections = read_detections(args.results, name)
    metadata = MetadataCatalog.get(name)
    files = [record["file_name"] for record in records]
    outputs = name_outputs(flat_names(files, metadata.get("image_root")), files, args.output)
    check_writable(args.output, f"--output {args.output}")
    class_names = drawable_names(metadata.thing_classes)
    skeleton = build_skeleton(keypoint_names_of(name), connection_rules_of(name))
    for record, output in zip(records, outputs, strict=True):
        found = detections.get(record["image_id"], [])
        picture = draw_comparison(record, found, class_names, args.score_thresh, skeleton)
        save_picture(picture, output)
    print(f"{count_words(len(outputs), '{picture|pictures}')} in {args.output}")
