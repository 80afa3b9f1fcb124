"""Recognition of files that are not COCO annotations, by their first bytes or their content."""

from collections.abc import Mapping
from typing import Any

from ...errors import agree
from ..file_types import JSON, XML, find_type_by_bytes

__all__ = ["LISTS", "describe_bytes", "describe_content"]

# The first bytes of PNG, JPEG and GIF.
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")
_EXPORT_XML = "If it has annotations of Pascal VOC or CVAT, export them in the format COCO."
LISTS = ("images", "annotations", "categories")


def describe_bytes(raw: bytes) -> str | None:
    """
    Return what a file is, if its first bytes show that it is not JSON.

    Args:
        raw (bytes): The beginning of the file.

    Returns:
        str | None: The text continues "The file ...", with what to do; None for anything else.
    """
    if raw.startswith(_IMAGES):
        return "is an image. Give the annotation file"
    kind = find_type_by_bytes(raw)
    if kind is None or kind is JSON:
        return None
    remedy = _EXPORT_XML if kind is XML else kind.remedy
    return f"is {kind.one}. {agree(remedy, 1).removesuffix('.')}"


# Keys of JSON objects of other formats, and what to do with such a file.
_OBJECTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("_via_img_metadata",),
        "is a project of VIA: export its annotations in the format COCO (Annotation > Export)",
    ),
    (
        ("shapes", "imagePath"),
        "has the shapes of one image, written by labelme: convert the folder of such files to COCO "
        "(labelme2coco)",
    ),
)
# Keys of the entries of JSON lists of other formats, and what to do with such a file.
_ENTRIES: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("image_id", "category_id", "score"),
        "is a list of detections, the results of an evaluation: give the annotations of the images",
    ),
    (
        ("image_id", "category_id", "bbox"),
        "is the list 'annotations' alone: it must be in an object beside 'images' and 'categories'",
    ),
    (
        ("data", "annotations"),
        "is a JSON export of Label Studio: export the annotations in the format COCO",
    ),
    (
        ("image", "annotations"),
        "is in the format CreateML: export the annotations in the format COCO",
    ),
)


def describe_content(content: Any) -> str | None:
    """
    Return what the content of a JSON file is, if it is not an object with COCO's lists.

    Args:
        content: The parsed file. The list "annotations" may be missing beside the other two.

    Returns:
        str | None: The text continues "The file ...", with what to do; None for COCO's content.
    """
    if isinstance(content, Mapping):
        missing = [x for x in LISTS if x not in content]
        if missing in ([], ["annotations"]):
            wrong = [x for x in LISTS if not isinstance(content.get(x, []), list)]
            named = " and ".join(map(repr, wrong))
            return f"is not in COCO's format: {named} must be a list" if wrong else None
        for keys, text in _OBJECTS:
            if all(x in content for x in keys):
                return text
        if _has_regions(content):
            return "is a JSON export of VIA: export the annotations in the format COCO"
        return (
            "is not in COCO's format: it has no list "
            f"{' and no list '.join(map(repr, missing))}, but the keys "
            f"{', '.join(map(repr, list(content)[:8])) or 'of an empty object'}"
        )
    if isinstance(content, list) and content and isinstance(content[0], Mapping):
        for keys, text in _ENTRIES:
            if all(x in content[0] for x in keys):
                return text
    return (
        f"is not in COCO's format: it is a {type(content).__name__}, but must be an object with "
        f"the lists {', '.join(map(repr, LISTS))}"
    )


def _has_regions(content: Mapping[str, Any]) -> bool:
    """Check for the annotations of VIA, which are an object for each image."""
    first = next(iter(content.values()), None)
    return isinstance(first, Mapping) and "regions" in first and "filename" in first
