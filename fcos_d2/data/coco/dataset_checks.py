"""The check of a dataset: its annotation file and its images."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError
from .annotation_list import NO_USABLE_BOX
from .box_checks import OUTSIDE, REACHES_OUT
from .category_list import class_names
from .descriptions import CheckedDataset, CocoDataset, FileStamp
from .findings import Finding
from .image_checks import SIZE_KINDS, Select, check_images, sample_images
from .image_list import NO_SIZE, file_names, is_image, make_size_finding
from .image_locations import locate_images
from .loading import normalize_with_sizes
from .location_findings import SKIP_SETTING
from .location_kinds import UNUSABLE
from .reading import parse_json
from .segmentations import NO_MASK

__all__ = ["check_coco_dataset"]

# The kinds of findings that wrong sizes of images cause.
_BY_SIZE = (OUTSIDE.name, REACHES_OUT.name, NO_MASK.name)


def check_coco_dataset(
    name: str,
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    skip_unreadable_images: bool = False,
    skip_setting: str = SKIP_SETTING,
    select: Select = sample_images,
) -> CheckedDataset:
    """
    Read and check a dataset, without registering it.

    Args:
        name (str): The name of the dataset.
        json_file (str): The annotations. Boxes are [x, y, width, height] in pixels.
        image_root (str): The folder that the ``file_name`` of images is relative to.
        skip_unreadable_images (bool): Leave out images that are missing or cannot be read.
        skip_setting (str): What would leave them out, for errors; "" if nothing would.
        select (Callable): Returns the images whose headers are read.

    Returns:
        CheckedDataset: The dataset. Its content can be used only if no finding is fatal.

    Raises:
        InputError: If a file or folder is missing or cannot be read.
    """
    json_file, image_root = str(Path(json_file)), str(Path(image_root))
    if not os.path.isdir(image_root):
        raise InputError(
            f"The images' folder {os.path.abspath(image_root)} of the dataset {name!r} "
            f"{'is not a folder' if os.path.exists(image_root) else 'does not exist'}.",
            file=image_root,
        )
    stamp = FileStamp.of(json_file)  # before the file is read, which may take seconds
    parsed = parse_json(json_file)
    locations = locate_images(file_names(parsed), image_root)
    content, findings = normalize_with_sizes(parsed, locations.path)
    images = check_images(
        content,
        locations,
        skip_unreadable=skip_unreadable_images,
        skip_setting=skip_setting,
        select=select,
    )
    categories = class_names(content["categories"])
    description = CocoDataset(
        name, json_file, image_root, categories, locations.found, images.left_out, stamp=stamp
    )
    wrong = [x for x in (*images.findings, *findings) if x.kind in (*SIZE_KINDS, NO_SIZE.name)]
    if wrong:
        names = {name for finding in wrong for name in finding.entries}
        unusable = {
            name for x in images.findings if x.kind.startswith(UNUSABLE) for name in x.entries
        }
        findings = [*_without_unusable(findings, parsed, unusable)]
        findings = _without_consequences(findings, parsed, names, locations.path)
    return CheckedDataset(description, images.content, [*findings, *images.findings])


def _without_unusable(
    findings: Iterable[Finding], parsed: Mapping[str, Any], unusable: Collection[str]
) -> Iterator[Finding]:
    """
    Yield findings without the unknown sizes of images that are missing or cannot be read.

    Args:
        findings (list[Finding]): The findings in a file.
        parsed (dict): The content of the file.
        unusable (set[str]): The ``file_name`` of each image that another finding is about.
    """
    for finding in findings:
        if finding.kind != NO_SIZE.name:
            yield finding
        elif names := set(finding.entries).difference(unusable):
            entries = [x for x in parsed["images"] if is_image(x) and x["file_name"] in names]
            yield make_size_finding(NO_SIZE, entries)


def _without_consequences(
    findings: Iterable[Finding],
    parsed: Mapping[str, Any],
    wrong: Collection[str],
    path: Callable[[str], str],
) -> list[Finding]:
    """
    Return findings without those of boxes that only look wrong because the image's size is.

    Args:
        findings (list[Finding]): The findings in a file.
        parsed (dict): The content of the file.
        wrong (set[str]): The ``file_name`` of each image that has another size than in the file.
        path (Callable): Returns the path of the image with a ``file_name``.
    """
    others = [x for x in parsed["images"] if not (is_image(x) and x["file_name"] in wrong)]
    _, found = normalize_with_sizes({**parsed, "images": others}, path)
    return [
        *(x for x in findings if not _is_by_size(x)),
        *(x._replace(kind=x.reason or x.kind, reason=None) for x in found if _is_by_size(x)),
    ]


def _is_by_size(finding: Finding) -> bool:
    """Return whether a wrong size of an image can be the cause of a finding."""
    kind = finding.reason if finding.kind == NO_USABLE_BOX else finding.kind
    return kind in _BY_SIZE
