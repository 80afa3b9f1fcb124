"""Conversion of what labeling tools write into valid COCO content."""

from collections.abc import Mapping
from typing import Any

from .annotation_list import normalize_annotations
from .category_list import normalize_categories
from .findings import Finding
from .image_list import ReadSize, normalize_images
from .recognition import describe_content

__all__ = ["NO_ANNOTATIONS", "file_ids", "normalize"]

NO_ANNOTATIONS = "no_annotations"  # the name of a kind


def normalize(
    annotations: Any, read_size: ReadSize | None = None
) -> tuple[dict[str, Any], list[Finding]]:
    """
    Make valid COCO content from the content of an annotation file.

    The result has unique integer ids. Where they differ from the file's own, an entry has its own
    id as "file_id". The argument is not changed; entries that are valid are shared with the result.

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
        empty: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        return empty, [Finding("not_coco", True, 1, f"The file {fault}.")]
    images = normalize_images(annotations["images"], read_size)
    categories = normalize_categories(annotations["categories"])
    content = {**annotations, "images": images.entries, "categories": categories.entries}
    findings = [*images.findings, *categories.findings]
    if "annotations" in annotations:
        entries, found = normalize_annotations(annotations["annotations"], images, categories)
        content["annotations"] = entries
        findings += found
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
    return {x["id"]: x.get("file_id", x["id"]) for x in content[name]}
