"""The check of datasets that a Python function returns, instead of an annotation file."""

import logging

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import InputError
from .coco import CheckedDataset, CocoDataset, normalize
from .coco.annotation_kinds import MISSING_AREA
from .coco.annotation_list import NO_USABLE_BOX, UNUSED_CLASSES
from .coco.crowds import describe_crowds
from .coco.dataset_dicts import convert_dataset_dicts
from .coco.findings import report
from .coco.image_checks import check_images
from .coco.image_locations import locate_images
from .coco.image_names import is_url
from .coco.location_findings import SKIP_SETTING
from .coco.normalization import NO_ANNOTATIONS

__all__ = ["check_function_dataset", "is_function_dataset"]

logger = logging.getLogger(__name__)

# ``check_datasets`` refuses sets without boxes; classes can be left out only of files; detectron2's
# dicts have no areas.
_NOT_REPORTED = (NO_USABLE_BOX, NO_ANNOTATIONS, UNUSED_CLASSES, MISSING_AREA.name)


def is_function_dataset(name: str) -> bool:
    """Return whether a dataset is registered as a function and has no annotation file."""
    return name in DatasetCatalog and not MetadataCatalog.get(name).get("json_file")


def check_function_dataset(
    name: str,
    *,
    is_training: bool,
    is_test: bool,
    skip_unreadable_images: bool = False,
    skip_setting: str = SKIP_SETTING,
    keep_crowd_boxes: bool | None = False,
) -> CheckedDataset:
    """
    Check a dataset that is registered as a function, as one with an annotation file is checked.

    The function is called. What makes a training or an evaluation impossible is an error; other
    findings are logged. Images are looked for if the dicts have local paths; without them, the
    mapper of the user has another source.

    Args:
        name (str): A dataset for which ``is_function_dataset`` is True.
        is_training (bool): Whether the run trains on it.
        is_test (bool): Whether the run evaluates on it.
        skip_unreadable_images (bool): Leave out images that are missing or cannot be read.
        skip_setting (str): What would leave them out, for errors; "" if nothing would.
        keep_crowd_boxes (bool | None): See ``coco.crowds.describe_crowds``.

    Returns:
        CheckedDataset: The dataset. Its content is a copy; loaders call the function again.

    Raises:
        InputError: If the dicts, the metadata or the images have faults. The message lists all
            kinds of faults.
    """
    records = DatasetCatalog.get(name)
    converted = convert_dataset_dicts(name, records, is_training=is_training, is_test=is_test)
    content, findings = normalize(converted)
    left_out: frozenset[str] = frozenset()
    files = [str(x["file_name"]) for x in records if "file_name" in x]
    if files and not any(map(is_url, files)):
        locations = locate_images(files, "")
        images = check_images(
            content,
            locations,
            skip_unreadable=skip_unreadable_images,
            skip_setting=skip_setting,
        )
        content, left_out = images.content, images.left_out
        findings = [*findings, *images.findings]
    findings = describe_crowds(
        findings, is_training_set=is_training, keep_crowd_boxes=keep_crowd_boxes
    )
    title = f"The dataset {name!r}"
    faults = [InputError(f"{title}: {x.text}", file=x.file or None) for x in findings if x.is_fatal]
    if faults:
        raise InputError.of(faults)
    report((x for x in findings if x.kind not in _NOT_REPORTED), title, logger)
    categories = {x["id"]: x["name"] for x in content["categories"]}
    return CheckedDataset(CocoDataset(name, "", "", categories, {}, left_out), content, findings)
