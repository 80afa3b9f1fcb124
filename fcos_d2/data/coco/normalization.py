"""Conversion of what labeling tools write into valid COCO content."""

from collections.abc import Mapping
from typing import Any

from .annotation_list import normalize_annotations
from .category_list import normalize_categories
from .findings import Finding
from .image_list import ReadSize, normalize_images
from .recognition import LISTS, describe_content

__all__ = ["NO_ANNOTATIONS", "file_ids", "normalize"]

NO_ANNOTATIONS = "no_annotations"  # the name of a kind
# The key of normalized content with the own ids that differ from the normalized ones, by these, for
# each list. They are not in the entries, which may have any keys.
_FILE_IDS = "file_ids"


def normalize(
    annotations: Any, read_size: ReadSize | None = None
) -> tuple[dict[str, Any], list[Finding]]:
    """
    Make valid COCO content from the content of an annotation file.

    The result has unique integer ids; ``file_ids`` returns the file's own ones. The argument is not
    changed; entries that are valid are shared with the result.

    Args:
        annotations (dict): The content of the file. The list "annotations" may be missing in a test
            set without boxes; then it is missing in the result too.
        read_size (Callable): Returns width and height of the image with a ``file_name``, or None if
            it cannot be read. It is called for images without a size.

    Returns:
        tuple[dict, list[Finding]]: The content, and what was found. The content can be used only if
        no finding is fatal.
    """
    fault = describe_content(annotations)
    if fault:
        empty: dict[str, Any] = {x: [] for x in LISTS}
        empty[_FILE_IDS] = {x: {} for x in LISTS}
        return empty, [Finding("not_coco", True, 1, f"The file {fault}.")]
    images = normalize_images(annotations["images"], read_size)
    categories = normalize_categories(annotations["categories"])
    content = {
        **annotations,
        "images": images.entries,
        "categories": categories.entries,
        _FILE_IDS: {"images": images.file_ids, "categories": categories.file_ids},
    }
    findings = [*images.findings, *categories.findings]
    if "annotations" in annotations:
        normalized = normalize_annotations(annotations["annotations"], images, categories)
        content["annotations"] = normalized.entries
        content[_FILE_IDS]["annotations"] = normalized.file_ids
        findings += normalized.findings
    else:
        text = (
            "The file has no list 'annotations': it can be a test set, for which an evaluation "
            "writes the detections, but not a training set."
        )
        findings.append(Finding(NO_ANNOTATIONS, False, 1, text))
    return content, findings


def file_ids(content: Mapping[str, Any], name: str) -> dict[int, Any]:
    """
    Return the file's own id by normalized id.

    Args:
        content (dict): The result of ``normalize``.
        name (str): The list: "images", "annotations" or "categories".
    """
    own = content[_FILE_IDS][name]
    return {x["id"]: own.get(x["id"], x["id"]) for x in content[name]}
