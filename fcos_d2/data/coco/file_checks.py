"""
What can be wrong with a COCO annotation file, told before training starts.

An error is what no training can work with; a warning is what detectron2 leaves out or lives with.
Each says how many there are and names the first.
"""

import json
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from ...errors import InputError
from .box_checks import BoxProblem, is_finite, short_repr, warnings_of_problems

__all__ = [
    "check_annotations",
    "check_images",
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
# Of the fields that serve as keys.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "id": (int, str),
    "image_id": (int, str),
    "category_id": (int, str),
    "file_name": (str,),
    "name": (str,),
}
_TYPE_NAMES = {int: "integer", str: "text"}


def read_coco_json(json_file: AnyPath) -> dict[str, Any]:
    """
    Parse an annotation file in COCO's format for detection, and check that it is one: that all
    lists and fields are there, each field by itself has a value that it can have, and the ids of a
    list can be sorted.

    Raises:
        InputError: the file is missing, empty, not JSON in UTF-8, or lacks what detection needs.
    """
    content = _parse(json_file)
    if not isinstance(content, dict) or any(not isinstance(content.get(k), list) for k in _LISTS):
        raise InputError(
            f"The annotation file {json_file} is not in COCO's format: it must be an object with "
            f"the lists {', '.join(map(repr, _LISTS))}."
        )
    for name in _LISTS:
        for index, entry in enumerate(content[name]):
            _check_fields(entry, name, f"{json_file}: {name}[{index}]")
    for name in ("images", "categories"):
        if not content[name]:
            raise InputError(f"{json_file}: the list {name!r} is empty.")
    for name in _LISTS:
        _check_one_type(content[name], f"{json_file}: {name}")
    _check_image_sizes(content, json_file)
    return content


def sorted_categories(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The categories of :func:`read_coco_json`'s content in the order of class indices: by id."""
    return sorted(content["categories"], key=lambda category: category["id"])


def _parse(json_file: AnyPath) -> Any:
    where = f"The annotation file {os.path.abspath(json_file)}"
    if not os.path.isfile(json_file):
        raise InputError(f"{where} does not exist{' as a file' * os.path.isdir(json_file)}.")
    try:
        raw = Path(json_file).read_bytes()
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror}.") from error
    if not raw:
        raise InputError(f"{where} is empty (0 bytes).")
    # pycocotools, which reads the file again, knows no other encoding.
    encoding = json.detect_encoding(raw)
    if encoding != "utf-8":
        name = "UTF-8 with a BOM" if encoding == "utf-8-sig" else encoding.upper()
        raise InputError(f"{where} looks like {name}: save it as UTF-8 without BOM.")
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8: {error}. Save it as UTF-8.") from error
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}.") from error
    except RecursionError as error:
        raise InputError(
            f"{where} is not JSON that can be read: it is nested too deeply."
        ) from error


def _check_fields(entry: Any, name: str, where: str) -> None:
    """An entry of the list ``name``, by itself."""
    for field in _FIELDS[name]:
        if not isinstance(entry, dict) or field not in entry:
            raise InputError(f"{where} has no {field!r}.")
        types, value = _TYPES.get(field), entry[field]
        if types and (not isinstance(value, types) or isinstance(value, bool)):
            raise InputError(
                f"{where} has {field} = {short_repr(value)}, which is no "
                f"{' or '.join(_TYPE_NAMES[x] for x in types)}."
            )
    if name == "images" and (entry["file_name"] in ("", ".") or "\0" in entry["file_name"]):
        raise InputError(f"{where} has file_name = {entry['file_name']!r}, which names no file.")
    if name == "annotations":
        if entry.get("iscrowd", 0) not in (0, 1):
            raise InputError(
                f"{where} has iscrowd = {short_repr(entry['iscrowd'])}; it must be 0 for a single "
                "object or 1 for a crowd."
            )
        if entry.get("ignore", 0) != 0:
            raise InputError(
                f"{where} has ignore = {short_repr(entry['ignore'])}, which detectron2 does not "
                "support: delete the key, or mark the annotation by iscrowd = 1."
            )


def _check_one_type(entries: list[dict[str, Any]], where: str) -> None:
    """Ids are sorted, and integers and texts have no common order."""
    first = {type(entry["id"]): entry["id"] for entry in reversed(entries)}
    if len(first) > 1:
        raise InputError(
            f"{where} have integers and texts as ids, such as {first[int]!r} and {first[str]!r}. "
            "Make all of them integers."
        )


def _check_image_sizes(content: Mapping[str, Any], json_file: AnyPath) -> None:
    for image, side in product(content["images"], ("width", "height")):
        value = image[side]
        if not is_finite(value) or value <= 0 or value != int(value):
            raise InputError(
                f"{json_file}: image {image['id']} ({image['file_name']!r}) has {side} = "
                f"{short_repr(value)}; it must be a whole number of pixels, at least 1."
            )


def check_annotations(
    content: Mapping[str, Any], json_file: AnyPath, problems: Iterable[BoxProblem]
) -> list[str]:
    """
    Check what the entries say of one another, and the boxes.

    Args:
        content (dict): of :func:`read_coco_json`.
        json_file (str): for the messages.
        problems (list[BoxProblem]): of :func:`.box_checks.find_box_problems`.

    Returns:
        list[str]: warnings.

    Raises:
        InputError: ids that are not unique, or of another type than what they refer to;
            annotations of unknown categories; boxes that are not four numbers; segmentations or
            keypoints that detectron2 cannot read.
    """
    _check_ids(content, json_file)
    _check_types_of_references(content, json_file)
    _check_categories(content, json_file)
    return [
        *_warnings_of_ids(content, json_file),
        *_warnings_of_files(content, json_file),
        *warnings_of_problems(problems, json_file),
    ]


def _check_ids(content: Mapping[str, Any], json_file: AnyPath) -> None:
    for name, field in (
        ("images", "id"),
        ("annotations", "id"),
        ("categories", "id"),
        ("categories", "name"),
    ):
        counts = Counter(entry[field] for entry in content[name])
        for value, count in counts.most_common(1):
            if count > 1:
                raise InputError(f"{json_file}: {count} {name} have the {field} {value!r}.")


def _check_types_of_references(content: Mapping[str, Any], json_file: AnyPath) -> None:
    for field, name in (("image_id", "images"), ("category_id", "categories")):
        known = content[name][0]["id"]
        other = [x for x in content["annotations"] if not isinstance(x[field], type(known))]
        if other:
            raise InputError(
                f"{json_file}: {len(other)} annotations have another type of {field} than the ids "
                f"of the {name}; the first is annotation {other[0]['id']} with {field} = "
                f"{other[0][field]!r} ({_TYPE_NAMES[type(other[0][field])]}), where the {name} "
                f"have ids such as {known!r} ({_TYPE_NAMES[type(known)]}). Make both integers."
            )


def _check_categories(content: Mapping[str, Any], json_file: AnyPath) -> None:
    known = {entry["id"] for entry in content["categories"]}
    unknown = [x for x in content["annotations"] if x["category_id"] not in known]
    if unknown:
        raise InputError(
            f"{json_file}: {len(unknown)} annotations are of a category that the file does not "
            f"have; the first is annotation {unknown[0]['id']} with category_id = "
            f"{unknown[0]['category_id']!r}. The file has {sorted(known)}."
        )


def _warnings_of_ids(content: Mapping[str, Any], json_file: AnyPath) -> Iterator[str]:
    image_ids = {entry["id"] for entry in content["images"]}
    lost = [x for x in content["annotations"] if x["image_id"] not in image_ids]
    if lost:
        yield (
            f"{json_file}: {len(lost)} annotations belong to no image of the file and are left out;"
            f" the first is annotation {lost[0]['id']} with image_id = {lost[0]['image_id']!r}."
        )
    if any(x["id"] == 0 for x in content["annotations"]):
        yield (
            f"{json_file}: an annotation has the id 0. COCO's evaluation takes 0 for 'no match', "
            "so that finding this object counts for nothing. Number annotations from 1."
        )


def _warnings_of_files(content: Mapping[str, Any], json_file: AnyPath) -> Iterator[str]:
    ids = defaultdict(list)
    for image in content["images"]:
        ids[os.path.normpath(image["file_name"])].append(image["id"])
    repeated = {file: those for file, those in ids.items() if len(those) > 1}
    for file, those in list(repeated.items())[:1]:
        yield (
            f"{json_file}: {len(repeated)} files are listed more than once; the first is {file!r} "
            f"(images {', '.join(map(str, those[:8]))}). Each of these images has only its own "
            "boxes, so that the others' objects count as background: make one image of them."
        )


def check_images(files: Iterable[Path], json_file: AnyPath) -> None:
    """
    Check that image files are there and not empty, without reading them.

    Raises:
        InputError: some are not; the message has the number and the first.
    """
    bad, count = defaultdict(list), 0
    for file in files:
        count += 1
        problem = _problem_of_file(file)
        if problem:
            bad[problem].append(file)
    for problem, those in bad.items():
        raise InputError(
            f"{len(those)} of the {count} images that {json_file} lists {problem}; the first is "
            f"{str(those[0].absolute())!r}. Is the images' folder right?"
        )


def _problem_of_file(file: Path) -> str | None:
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no text that can be a path
        return "do not exist"
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return "are no files (but folders or devices)"
    return None if status.st_size else "are empty (0 bytes)"
