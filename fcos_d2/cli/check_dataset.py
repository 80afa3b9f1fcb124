"""The subcommand ``check-dataset``: describe a dataset and report its mistakes."""

import argparse
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from ..data.coco import check_datasets, register_coco_dataset
from ..data.coco.report import describe, find_damaged_images, log_warnings
from ..errors import InputError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("annotations", type=Path, metavar="ANNOTATIONS.json")
    parser.add_argument("images", type=Path, metavar="IMAGES/")
    parser.add_argument("--decode", action="store_true", help="also open and decode every image")


def run(args: argparse.Namespace) -> None:
    """
    Print a table of the dataset's boxes, and the mistakes in the dataset.

    Raises:
        InputError: If training would not start with this dataset.
    """
    if args.annotations.is_dir():
        hint = " The arguments are the wrong way round." if args.images.is_file() else ""
        raise InputError(
            f"{args.annotations} is a folder, but the first argument is the annotation file, and "
            f"the second is the folder of the images.{hint}"
        )
    if args.images.is_file():
        raise InputError(f"{args.images} is a file; it must be the folder of the images.")
    name = args.annotations.stem
    if name in DatasetCatalog:  # the name of a dataset of detectron2 or of this project
        name = str(args.annotations.absolute())
    dataset = register_coco_dataset(
        name, args.annotations, args.images, select=partial(tqdm, desc="headers", unit="image")
    )
    try:
        print(describe(dataset))
        log_warnings(dataset)
        # Training makes the same checks.
        check_datasets(len(dataset.content["categories"]), [name], [], {name: dataset})
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    if args.decode:
        errors = list(find_damaged_images(dataset))
        for error in errors:
            print(error.text)
        if errors:
            raise InputError(f"{len(errors)} of {len(dataset.files())} images cannot be used.")
    print("No mistake that would stop training was found.")
