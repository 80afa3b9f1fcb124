"""Checks of the dataset dicts that a Python function returns, before they are converted."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import BoxMode

from ...arguments import is_integer
from ...errors import count_words, short_repr

__all__ = ["find_record_faults"]

Record = Mapping[str, Any]


class _Field(NamedTuple):
    """
    A field of a dict.

    Attributes:
        name (str): The name.
        is_valid (Callable): Whether a value of the field is valid.
        rule (str): What the field must be.
        is_required (bool): Whether each dict needs it.
    """

    name: str
    is_valid: Callable[[Any], bool]
    rule: str
    is_required: bool = True


class _Entry(NamedTuple):
    """
    The dict of an image or of an annotation.

    Attributes:
        content (dict): The dict.
        index (int): The index of the image.
        image (dict): The dict of the image.
        position (int | None): The index of the annotation in the image; None for an image.
    """

    content: Record
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    image: Record
    position: int | None = None

    @property
    def name(self) -> str:
        """How messages name it."""
        annotation = "" if self.position is None else f"annotation {self.position} of "
        file = f" ({self.image['file_name']})" if "file_name" in self.image else ""
        return f"{annotation}index {self.index}{file}"


def _is_integer(value: Any) -> bool:
    """Return whether a value is an int of Python or NumPy, and not a bool."""
    return is_integer(value) or isinstance(value, np.integer)


def _is_id(value: Any) -> bool:
    """Return whether a value can be the id of an image."""
    return _is_integer(value) or isinstance(value, str)


def _are_keypoints(value: Any) -> bool:
    """Return whether keypoints are missing, or three finite numbers for each."""
    if value is None:
        return True
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return False
    is_numeric = array.dtype.kind in "iuf" and array.ndim > 0
    return is_numeric and array.size % 3 == 0 and bool(np.isfinite(array).all())


def _is_box(value: Any) -> bool:
    """Return whether a value is a list of four numbers."""
    if not isinstance(value, (list, tuple, np.ndarray)) or len(value) != 4:
        return False
    return all(isinstance(x, (int, float, np.number)) for x in value)


_FILE_NAME = _Field(
    "file_name",
    lambda x: isinstance(x, (str, os.PathLike)) and str(x) != "",
    "the path of the image",
)
_IMAGE_ID = _Field(
    "image_id",
    _is_id,
    "an int or a text that no other image has: an evaluation finds the annotations of an image by "
    "it",
)
_SIDES = tuple(
    _Field(
        name,
        lambda x: _is_integer(x) and x > 0,
        "the number of pixels of the image file, as an int",
    )
    for name in ("width", "height")
)
_ANNOTATIONS = _Field(
    "annotations",
    lambda x: isinstance(x, (list, tuple)) and all(isinstance(y, Mapping) for y in x),
    "a list of dicts, which is empty for an image without objects",
)
_BOX_FIELDS = (
    _Field("bbox", _is_box, "a list of four numbers"),
    _Field(
        "bbox_mode",
        lambda x: _is_integer(x) and x in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS),
        "BoxMode.XYXY_ABS or BoxMode.XYWH_ABS",
    ),
    _Field(
        "segmentation",
        lambda x: isinstance(x, (list, Mapping)),
        "a list of polygons or an RLE",
        is_required=False,
    ),
    _Field(
        "keypoints",
        _are_keypoints,
        "a list of three numbers for each: x, y and visibility",
        is_required=False,
    ),
)


def find_record_faults(
    records: Any, num_classes: int, *, is_training: bool, is_test: bool
) -> Iterator[str]:
    """
    Yield a text for each kind of fault in the dicts of a dataset that cannot be converted.

    Args:
        records (Any): What the function returned: a list of dicts of images, if it is valid.
        num_classes (int): The number of classes in the metadata.
        is_training (bool): Whether training uses the dataset, which needs the annotations.
        is_test (bool): Whether evaluations use the dataset, which need ids of images.
    """
    if not isinstance(records, (list, tuple)):
        yield f"the function returns {short_repr(records)} and not a list of dicts."
        return
    if not records:
        yield "the function returns an empty list, so there are no images."
        return
    wrong = [i for i, x in enumerate(records) if not isinstance(x, Mapping)]
    if wrong:
        yield (
            f"{len(wrong)} of {count_words(len(records), '{entry is|entries are}')} not dicts, the "
            f"first is index {wrong[0]}: {short_repr(records[wrong[0]])}."
        )
        return
    images = [_Entry(x, i, x) for i, x in enumerate(records)]
    fields = [*_SIDES, _ANNOTATIONS._replace(is_required=is_training)]
    if any("file_name" in x for x in records):  # else, a mapper has its own source of images
        fields.append(_FILE_NAME)
    if is_test:
        fields.append(_IMAGE_ID)
    for field in fields:
        yield from _find_field_faults(images, field, "{dict has|dicts have}")
    if is_test:
        yield from _find_repeated_ids(images)
    boxes = [
        _Entry(box, image.index, image.content, i)
        for image in images
        if _ANNOTATIONS.is_valid(image.content.get("annotations", ()))
        for i, box in enumerate(image.content.get("annotations", ()))
    ]
    category = _Field(
        "category_id",
        lambda x: _is_integer(x) and 0 <= x < num_classes,
        f"the index of a class in the metadata's thing_classes, from 0 to {num_classes - 1}",
    )
    for field in (*_BOX_FIELDS, category):
        yield from _find_field_faults(boxes, field, "{annotation has|annotations have}")


def _find_field_faults(entries: Sequence[_Entry], field: _Field, what: str) -> Iterator[str]:
    """Yield a text about the dicts that lack a field, and one about those with a wrong value."""
    name = field.name
    absent = [x for x in entries if name not in x.content] if field.is_required else []
    wrong = [x for x in entries if name in x.content and not field.is_valid(x.content[name])]
    for problem, faulty in (("no", absent), ("a wrong", wrong)):
        if faulty:
            first = faulty[0]
            value = f" with {name} = {short_repr(first.content[name])}" if faulty is wrong else ""
            yield (
                f"{len(faulty)} of {count_words(len(entries), what)} {problem} {name!r}, the first "
                f"is {first.name}{value}. It must be {field.rule}."
            )


def _find_repeated_ids(images: Sequence[_Entry]) -> Iterator[str]:
    """Yield a text about images with the id of another one."""
    firsts: dict[Any, _Entry] = {}
    valid = [x for x in images if _is_id(x.content.get("image_id"))]
    repeated = [x for x in valid if firsts.setdefault(x.content["image_id"], x) is not x]
    if repeated:
        image_id = repeated[0].content["image_id"]
        yield (
            f"{len(repeated)} of {count_words(len(images), '{dict has|dicts have}')} an 'image_id' "
            f"that another one has too, the first is {repeated[0].name} with image_id = "
            f"{image_id!r}, as {firsts[image_id].name} has. Give each image its own."
        )
