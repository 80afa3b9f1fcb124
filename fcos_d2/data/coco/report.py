"""A summary of a dataset in COCO's format, and checks of its images."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate
from tqdm import tqdm

from ...errors import count_words, short_repr
from ..images import UnreadableImageError, is_readable, read_header
from .box_checks import LEFT_OUT, find_box_kinds, read_boxes
from .descriptions import CheckedDataset
from .findings import Finding, make_finding
from .image_checks import DAMAGED
from .location_findings import SKIP_SETTING, advise_skipping

__all__ = ["decode_images", "describe"]

Array = NDArray[Any]

# The limits of COCO's small and medium sizes, as areas in pixels.
_SMALL, _MEDIUM = 32**2, 96**2
_SIZES = ("small", "medium", "large", "crowd", "not usable")


def describe(content: Mapping[str, Any]) -> str:
    """
    Return a report with the number of images, and a table of the boxes of each class by size.

    Args:
        content (dict): The result of ``normalize``.
    """
    annotations = content.get("annotations", ())
    boxes, _ = read_boxes([x["bbox"] for x in annotations])
    sizes = np.full(len(boxes), _SIZES.index("large"))
    areas = boxes[:, 2] * boxes[:, 3]
    sizes[areas < _MEDIUM] = _SIZES.index("medium")
    sizes[areas < _SMALL] = _SIZES.index("small")
    sizes[[bool(x["iscrowd"]) for x in annotations]] = _SIZES.index("crowd")
    sizes[_find_unused(boxes, content)] = _SIZES.index("not usable")
    ids = [x["id"] for x in content["categories"]]
    order = np.argsort(ids)
    classes = order[np.searchsorted(ids, [x["category_id"] for x in annotations], sorter=order)]
    counts = np.zeros((len(ids), len(_SIZES)), np.int64)
    np.add.at(counts, (classes, sizes), 1)
    names = [_escape(x["name"]) for x in content["categories"]]
    rows = [[name, *row] for name, row in zip(names, counts, strict=True)]
    # Without disable_numparse, the class "007" would be 7.
    table = tabulate(
        rows,
        headers=["class", *_SIZES],
        tablefmt="pipe",
        disable_numparse=[0],
        preserve_whitespace=True,
    )
    num_images, num_with_boxes = len(content["images"]), len({x["image_id"] for x in annotations})
    return (
        f"{count_words(num_images, '{image|images}')}, {num_images - num_with_boxes} of them "
        f"without boxes; {count_words(len(annotations), '{box|boxes}')} (small: below 32 x 32 "
        f"pixels, large: from 96 x 96)\n\n{table}\n"
    )


def _escape(name: str) -> str:
    """Return a class name without characters that break a table of Markdown or a terminal."""
    printable = "".join(x if x.isprintable() else repr(x)[1:-1] for x in name)
    return printable.replace("|", "\\|")


def _find_unused(boxes: Array, content: Mapping[str, Any]) -> Array:
    """Return which boxes training leaves out, except for crowds, as (N,) bool."""
    sizes = {x["id"]: (x["width"], x["height"]) for x in content["images"]}
    sizes_of_boxes = np.array([sizes[x["image_id"]] for x in content.get("annotations", ())])
    kinds = find_box_kinds(boxes, sizes_of_boxes.reshape(-1, 2))
    unused: Array = np.any([kinds[x] for x in LEFT_OUT], axis=0)
    return unused


def decode_images(dataset: CheckedDataset) -> Iterator[Finding]:
    """Decode every image with a valid header, and yield a finding about those that are damaged."""
    damaged: dict[str, tuple[str, BaseException | None]] = {}
    names = [x["file_name"] for x in dataset.content["images"]]
    pairs = zip(names, dataset.files(), strict=True)
    for name, file in tqdm(pairs, total=len(names), desc="pixels", unit="image", disable=not names):
        try:
            read_header(file, decode=True)
        except UnreadableImageError as error:
            if is_readable(file):  # others are reported by the check of the headers
                damaged[name] = file, error.__cause__
    if damaged:
        name, (file, cause) = next(iter(damaged.items()))
        first = f"{short_repr(os.path.abspath(file))}: {type(cause).__name__}: {cause}"
        finding = make_finding(DAMAGED, [*damaged], first, total=len(names), file_name=name)
        yield advise_skipping(finding, SKIP_SETTING)._replace(file=file)
