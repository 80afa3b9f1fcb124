"""
Checks of a COCO annotation file, made before training starts.

A fault makes training impossible. A warning is about something that detectron2 leaves out or
accepts. Each message says how many entries are affected and names the first one.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any

from ...errors import InputError
from .box_checks import is_finite, short_repr
from .reading import parse_json

__all__ = [
    "find_annotation_faults",
    "find_annotation_warnings",
    "read_coco_json",
    "sorted_categories",
]

AnyPath = str | os.PathLike[str]

_LISTS = ("images", "annotations", "categories")
_FIELDS = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
# Types of the fields that are used as keys.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "id": (int, str),
    "image_id": (int, str),
    "category_id": (int, str),
    "file_name": (str,),
    "name": (str,),
}
_TYPE_NAMES = {int: "an integer", str: "a string"}


def read_coco_json(json_file: AnyPath) -> dict[str, Any]:
    """
    Parse an annotation file in COCO's format for detection, and check its structure.

    All lists and fields must exist, each field must have a possible value, and the ids of each list
    must be sortable.

    Args:
        json_file (str): The file.

    Returns:
        dict: Its content.

    Raises:
        InputError: If the file is missing, empty, not JSON in UTF-8, or does not have this
            structure.
    """
    content = parse_json(json_file)
    if not isinstance(content, dict) or any(not isinstance(content.get(k), list) for k in _LISTS):
        raise InputError(
            f"The annotation file {json_file} is not in COCO's format: it must be an object with "
            f"the lists {', '.join(map(repr, _LISTS))}.",
            file=str(json_file),
        )
    # The second check needs the fields that the first one ensures.
    for check in (_check_entries, _check_lists):
        faults = [InputError(f"{json_file}: {x}", file=str(json_file)) for x in check(content)]
        if faults:
            raise InputError.of(faults)
    return content


def sorted_categories(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the categories of an annotation file in the order of class indices, which is by id."""
    return sorted(content["categories"], key=lambda category: category["id"])


def _check_entries(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message about the first wrong entry of each list."""
    for name in _LISTS:
        wrong = (
            f"{name}[{index}] has {text}"
            for index, entry in enumerate(content[name])
            if (text := _describe_fault(entry, name))
        )
        yield from islice(wrong, 1)


def _describe_fault(entry: Any, name: str) -> str:
    """
    Describe what is wrong with an entry of the list ``name``; "" if nothing is.

    The text continues "annotations[3] has ...".
    """
    for field in _FIELDS[name]:
        if not isinstance(entry, dict) or field not in entry:
            return f"no {field!r}."
        types, value = _TYPES.get(field), entry[field]
        if types and type(value) not in types:
            return (
                f"{field} = {short_repr(value)}, which is not "
                f"{' or '.join(_TYPE_NAMES[x] for x in types)}."
            )
    if name == "images" and (entry["file_name"] in ("", ".") or "\0" in entry["file_name"]):
        return f"file_name = {entry['file_name']!r}, which is not the name of a file."
    if name == "annotations" and entry.get("iscrowd", 0) not in (0, 1):
        return (
            f"iscrowd = {short_repr(entry['iscrowd'])}; it must be 0 for a single object or 1 for "
            "a crowd."
        )
    if name == "annotations" and entry.get("ignore", 0) != 0:
        return (
            f"ignore = {short_repr(entry['ignore'])}, which detectron2 does not support: delete "
            "the key, or mark the annotation with iscrowd = 1."
        )
    return ""


def _check_lists(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield texts about empty lists, ids that cannot be sorted and impossible image sizes."""
    for name in _LISTS:
        if not content[name] and name != "annotations":
            yield f"the list {name!r} is empty."
        # Ids are sorted, which is impossible with both integers and strings.
        first = {type(entry["id"]): entry["id"] for entry in reversed(content[name])}
        if len(first) > 1:
            yield (
                f"{name} have integers and strings as ids, such as {first[int]!r} and "
                f"{first[str]!r}. Make all of them integers."
            )
    for image, side in product(content["images"], ("width", "height")):
        value = image[side]
        if not is_finite(value) or value <= 0 or value != int(value):
            yield (
                f"image {image['id']} ({image['file_name']!r}) has {side} = {short_repr(value)}; "
                "it must be a whole number of pixels, at least 1."
            )
            break


def find_annotation_faults(content: Mapping[str, Any], json_file: AnyPath) -> list[InputError]:
    """
    Find wrong references between the entries.

    Args:
        content (dict): The result of ``read_coco_json``.
        json_file (str): The annotation file, for messages.

    Returns:
        list[InputError]: Errors about ids that are not unique, ids of another type than those that
        they refer to, and unknown categories.
    """
    texts = (*_repeated_ids(content), *_wrong_references(content))
    return [InputError(f"{json_file}: {text}", file=str(json_file)) for text in texts]


def _repeated_ids(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield texts about ids and category names that occur more than once."""
    for name, field in (
        ("images", "id"),
        ("annotations", "id"),
        ("categories", "id"),
        ("categories", "name"),
    ):
        counts = Counter(entry[field] for entry in content[name])
        for value, count in counts.most_common(1):
            if count > 1:
                yield f"{count} {name} have the {field} {value!r}."


def _wrong_references(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield texts about images and categories that annotations refer to but the file lacks."""
    for field, name in (("image_id", "images"), ("category_id", "categories")):
        known = {entry["id"] for entry in content[name]}
        example = content[name][0]["id"]
        unknown = [x for x in content["annotations"] if x[field] not in known]
        other_type = [x for x in unknown if not isinstance(x[field], type(example))]
        if other_type:
            first = other_type[0]
            yield (
                f"{len(other_type)} annotations have another type of {field} than the ids "
                f"of the {name}; the first is annotation {first['id']} with {field} = "
                f"{first[field]!r} ({_TYPE_NAMES[type(first[field])]}), but the {name} "
                f"have ids such as {example!r} ({_TYPE_NAMES[type(example)]}). Make both integers."
            )
        elif unknown and name == "categories":  # annotations of unknown images are left out
            yield (
                f"{len(unknown)} annotations are of a category that the file does not "
                f"have; the first is annotation {unknown[0]['id']} with category_id = "
                f"{unknown[0]['category_id']!r}. The file has the categories {sorted(known)}."
            )


def find_annotation_warnings(content: Mapping[str, Any], json_file: AnyPath) -> list[str]:
    """
    Find probable mistakes that detectron2 accepts or leaves out.

    Args:
        content (dict): The result of ``read_coco_json``.
        json_file (str): The annotation file, for messages.

    Returns:
        list[str]: Warnings.
    """
    texts = (*_unusual_ids(content), *_repeated_files(content))
    return [f"{json_file}: {text}" for text in texts]


def _unusual_ids(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield texts about annotations without an image and about the id 0."""
    image_ids = {entry["id"] for entry in content["images"]}
    without_image = [x for x in content["annotations"] if x["image_id"] not in image_ids]
    if without_image:
        first = without_image[0]
        yield (
            f"{len(without_image)} annotations belong to no image of the file and are left out; "
            f"the first is annotation {first['id']} with image_id = {first['image_id']!r}."
        )
    if any(x["id"] == 0 for x in content["annotations"]):
        yield (
            "an annotation has the id 0. COCO's evaluation reads 0 as 'no match', so a detection "
            "of this object is counted as wrong. Number annotations from 1."
        )


def _repeated_files(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message about files that several images have in common."""
    files = [os.path.normpath(image["file_name"]) for image in content["images"]]
    repeated = [file for file, count in Counter(files).items() if count > 1]
    if repeated:
        entries = zip(content["images"], files, strict=True)
        ids = [image["id"] for image, file in entries if file == repeated[0]]
        yield (
            f"{len(repeated)} files are listed more than once; the first is {repeated[0]!r} "
            f"(images {', '.join(map(str, ids[:8]))}). Each of these images has only some of the "
            "boxes, so the other objects count as background. Merge them into one image."
        )
