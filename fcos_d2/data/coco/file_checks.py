"""
What can be wrong with a COCO annotation file, found before training starts.

A fault is what no training can work with; a warning is what detectron2 leaves out or accepts. Each
says how many there are and names the first.
"""

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, product
from typing import Any

from ...errors import InputError
from .box_checks import is_finite, short_repr
from .reading import parse_json

__all__ = [
    "faults_of_annotations",
    "faults_of_images",
    "read_coco_json",
    "sorted_categories",
    "warnings_of_annotations",
]

AnyPath = str | os.PathLike[str]

_LISTS = ("images", "annotations", "categories")
_FIELDS = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
# Of the fields that serve as keys.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "id": (int, str),
    "image_id": (int, str),
    "category_id": (int, str),
    "file_name": (str,),
    "name": (str,),
}
_TYPE_NAMES = {int: "an integer", str: "a text"}


def read_coco_json(json_file: AnyPath) -> dict[str, Any]:
    """
    Parse an annotation file in COCO's format for detection, and check that it is one: that all
    lists and fields are there, each field by itself has a value that it can have, and the ids of a
    list can be sorted.

    Raises:
        InputError: the file is missing, empty, not JSON in UTF-8, or lacks what detection needs.
    """
    content = parse_json(json_file)
    if not isinstance(content, dict) or any(not isinstance(content.get(k), list) for k in _LISTS):
        raise InputError(
            f"The annotation file {json_file} is not in COCO's format: it must be an object with "
            f"the lists {', '.join(map(repr, _LISTS))}.",
            file=str(json_file),
        )
    # The second look relies on the fields that the first has found.
    for look in (_wrong_entries, _wrong_lists):
        faults = [InputError(f"{json_file}: {x}", file=str(json_file)) for x in look(content)]
        if faults:
            raise InputError.of(faults)
    return content


def sorted_categories(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The categories of ``read_coco_json``'s content in the order of class indices: by id."""
    return sorted(content["categories"], key=lambda category: category["id"])


def _wrong_entries(content: Mapping[str, Any]) -> Iterator[str]:
    """The first wrong entry of each list."""
    for name in _LISTS:
        wrong = (
            f"{name}[{index}] has {text}"
            for index, entry in enumerate(content[name])
            if (text := _wrong_field(entry, name))
        )
        yield from islice(wrong, 1)


def _wrong_field(entry: Any, name: str) -> str:
    """What an entry of the list ``name`` has that is wrong by itself; "" if nothing."""
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
        return f"file_name = {entry['file_name']!r}, which names no file."
    if name == "annotations" and entry.get("iscrowd", 0) not in (0, 1):
        return (
            f"iscrowd = {short_repr(entry['iscrowd'])}; it must be 0 for a single object or 1 for "
            "a crowd."
        )
    if name == "annotations" and entry.get("ignore", 0) != 0:
        return (
            f"ignore = {short_repr(entry['ignore'])}, which detectron2 does not support: delete "
            "the key, or mark the annotation by iscrowd = 1."
        )
    return ""


def _wrong_lists(content: Mapping[str, Any]) -> Iterator[str]:
    for name in _LISTS:
        if not content[name] and name != "annotations":
            yield f"the list {name!r} is empty."
        # Ids are sorted, and integers and texts have no common order.
        first = {type(entry["id"]): entry["id"] for entry in reversed(content[name])}
        if len(first) > 1:
            yield (
                f"{name} have integers and texts as ids, such as {first[int]!r} and "
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


def faults_of_annotations(content: Mapping[str, Any], json_file: AnyPath) -> list[InputError]:
    """
    Find what is wrong in what the entries say of one another.

    Args:
        content (dict): of ``read_coco_json``.
        json_file (str): for the messages.

    Returns:
        list[InputError]: for ids that are not unique, or of another type than what they refer to,
        and annotations of unknown categories.
    """
    texts = (*_repeated_ids(content), *_wrong_references(content))
    return [InputError(f"{json_file}: {text}", file=str(json_file)) for text in texts]


def _repeated_ids(content: Mapping[str, Any]) -> Iterator[str]:
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
    for field, name in (("image_id", "images"), ("category_id", "categories")):
        known = {entry["id"] for entry in content[name]}
        example = content[name][0]["id"]
        unknown = [x for x in content["annotations"] if x[field] not in known]
        other = [x for x in unknown if not isinstance(x[field], type(example))]
        if other:
            yield (
                f"{len(other)} annotations have another type of {field} than the ids "
                f"of the {name}; the first is annotation {other[0]['id']} with {field} = "
                f"{other[0][field]!r} ({_TYPE_NAMES[type(other[0][field])]}), where the {name} "
                f"have ids such as {example!r} ({_TYPE_NAMES[type(example)]}). Make both integers."
            )
        elif unknown and name == "categories":  # annotations of unknown images are left out
            yield (
                f"{len(unknown)} annotations are of a category that the file does not "
                f"have; the first is annotation {unknown[0]['id']} with category_id = "
                f"{unknown[0]['category_id']!r}. The file has {sorted(known)}."
            )


def warnings_of_annotations(content: Mapping[str, Any], json_file: AnyPath) -> list[str]:
    """
    Find what detectron2 leaves out or accepts, but was hardly meant.

    Args:
        content, json_file: see ``faults_of_annotations``.
    """
    texts = (*_unusual_ids(content), *_repeated_files(content))
    return [f"{json_file}: {text}" for text in texts]


def _unusual_ids(content: Mapping[str, Any]) -> Iterator[str]:
    image_ids = {entry["id"] for entry in content["images"]}
    lost = [x for x in content["annotations"] if x["image_id"] not in image_ids]
    if lost:
        yield (
            f"{len(lost)} annotations belong to no image of the file and are left out;"
            f" the first is annotation {lost[0]['id']} with image_id = {lost[0]['image_id']!r}."
        )
    if any(x["id"] == 0 for x in content["annotations"]):
        yield (
            "an annotation has the id 0. COCO's evaluation takes 0 for 'no match', "
            "so that finding this object counts for nothing. Number annotations from 1."
        )


def _repeated_files(content: Mapping[str, Any]) -> Iterator[str]:
    files = [os.path.normpath(image["file_name"]) for image in content["images"]]
    repeated = [file for file, count in Counter(files).items() if count > 1]
    if repeated:
        entries = zip(content["images"], files, strict=True)
        ids = [image["id"] for image, file in entries if file == repeated[0]]
        yield (
            f"{len(repeated)} files are listed more than once; the first is {repeated[0]!r} "
            f"(images {', '.join(map(str, ids[:8]))}). Each of these images has only its own "
            "boxes, so that the others' objects count as background: make one image of them."
        )


def faults_of_images(files: Iterable[str], json_file: AnyPath) -> list[InputError]:
    """
    Find image files that are missing or empty, without reading them.

    Args:
        files (list[str]): their paths.
        json_file (str): that lists them.

    Returns:
        list[InputError]: one for each kind of fault, with the number and the first.
    """
    bad, count = defaultdict(list), 0
    for file in files:
        count += 1
        problem = _problem_of_file(file)
        if problem:
            bad[problem].append(file)
    return [
        InputError(
            f"{len(those)} of the {count} images that {json_file} lists {problem}; the first is "
            f"{os.path.abspath(those[0])!r}. Is the images' folder right?",
            file=those[0],
        )
        for problem, those in bad.items()
    ]


def _problem_of_file(file: str) -> str | None:
    try:
        status = os.stat(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # or a text that cannot be a path
        return "do not exist"
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return "are not files (but folders or devices)"
    return None if status.st_size else "are empty (0 bytes)"
