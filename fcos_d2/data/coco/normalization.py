"""Conversion of what labeling tools write into valid COCO content."""

from collections.abc import Callable, Mapping
from typing import Any

from .findings import Finding

__all__ = ["file_ids", "normalize"]

ReadSize = Callable[[str], tuple[int, int] | None]


def normalize(
    annotations: Mapping[str, Any], read_size: ReadSize | None = None
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
    return dict(annotations), []


def file_ids(content: Mapping[str, Any], name: str) -> dict[int, Any]:
    """
    Return the file's own id by normalized id.

    Args:
        content (dict): The result of ``normalize``.
        name (str): The list: "images", "annotations" or "categories".
    """
    return {x["id"]: x.get("file_id", x["id"]) for x in content[name]}
