"""The subcommand ``check-dataset``: describe a dataset and report its mistakes."""

import argparse
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.coco import Finding, check_coco_dataset
from ..data.coco.annotation_list import NO_USABLE_BOX
from ..data.coco.findings import check_findings, report
from ..data.coco.image_checks import AnnotatedImage
from ..data.coco.normalization import NO_ANNOTATIONS
from ..data.coco.report import decode_images, describe
from ..errors import InputError

__all__ = ["add_arguments", "run"]

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("annotations", type=Path, metavar="ANNOTATIONS.json")
    parser.add_argument("images", type=Path, metavar="IMAGES/")
    parser.add_argument("--decode", action="store_true", help="also open and decode every image")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print everything that was found as JSON instead, with the ids of all entries",
    )


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
    try:
        dataset = check_coco_dataset(
            args.annotations.stem,
            args.annotations,
            args.images,
            select=_show_progress,
        )
    except InputError as error:
        if args.json:
            _print_json([Finding("file", True, 1, x.text, file=x.file) for x in error.faults])
        raise
    findings = [_without_boxes(x) if x.kind == NO_USABLE_BOX else x for x in dataset.findings]
    if args.decode:
        findings += decode_images(dataset)
    if args.json:
        _print_json(findings)
        check_findings(findings, args.annotations)
        return
    if not any(x.is_fatal for x in findings):
        print(describe(dataset.content))
    report(findings, args.annotations, logger)
    pixels = "" if args.decode else " No pixel was read; --decode reads them."
    is_test_set = any(x.kind == NO_ANNOTATIONS for x in findings)
    run_name = "an evaluation" if is_test_set else "training"
    print(f"No mistake that would stop {run_name} was found.{pixels}")


def _show_progress(images: Sequence[AnnotatedImage]) -> Iterable[AnnotatedImage]:
    """Return all images, with a progress bar if there are any."""
    return tqdm(images, desc="headers", unit="image", disable=not images)


def _without_boxes(finding: Finding) -> Finding:
    """Return the error about a file whose boxes cannot be used; a test set may have none."""
    return finding._replace(is_fatal=True, text=f"There is no box to learn from: {finding.text}")


def _print_json(findings: Iterable[Finding]) -> None:
    """Print findings as JSON, with values and ids that JSON does not have as texts."""
    content = [
        {**x._asdict(), "value": _to_json(x.value), "entries": [*map(_to_json, x.entries)]}
        for x in findings
    ]
    print(json.dumps({"findings": content}, indent=1))


def _to_json(value: Any) -> Any:
    """Return a value of a finding, or its text if JSON does not have such a value."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return repr(value)
    return value
