"""The subcommand ``check-dataset``: describe a dataset and report its mistakes."""

import argparse
import json
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ..data.coco import CheckedDataset, Finding, check_coco_dataset
from ..data.coco.annotation_list import NO_USABLE_BOX
from ..data.coco.findings import finding_error, report_lines
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
            select=partial(tqdm, desc="headers", unit="image"),
        )
    except InputError as error:
        if args.json:
            _print_json([Finding("file", True, 1, x.text, file=x.file) for x in error.faults])
        raise
    # Nothing can be learned from a file without boxes; a test set may have none.
    findings = [
        x._replace(is_fatal=True) if x.kind == NO_USABLE_BOX else x for x in dataset.findings
    ]
    if args.decode:
        findings += decode_images(dataset)
    if args.json:
        _print_json(findings)
    else:
        _report(dataset, findings)
    faults = [finding_error(x, args.annotations) for x in findings if x.is_fatal]
    if faults:
        raise InputError.of(faults)
    if not args.json:
        pixels = "" if args.decode else " No pixel was read; --decode reads them."
        is_test_set = any(x.kind == NO_ANNOTATIONS for x in findings)
        run_name = "an evaluation" if is_test_set else "training"
        print(f"No mistake that would stop {run_name} was found.{pixels}")


def _report(dataset: CheckedDataset, findings: Sequence[Finding]) -> None:
    """Print the description of a dataset, and log the findings that are not fatal."""
    if not any(x.is_fatal for x in findings):
        print(describe(dataset.content))
    for line in report_lines(findings, dataset.description.json_file):
        logger.warning(line)


def _print_json(findings: Iterable[Finding]) -> None:
    """Print findings as JSON, with values that JSON does not have as texts."""
    entries = []
    for finding in findings:
        try:
            json.dumps(finding.value, allow_nan=False)
        except ValueError:
            finding = finding._replace(value=repr(finding.value))
        entries.append(finding._asdict())
    print(json.dumps({"findings": entries}, indent=1))
