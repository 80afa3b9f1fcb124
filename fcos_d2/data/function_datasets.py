"""The check of datasets that a Python function returns, instead of an annotation file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..arguments import is_integer
from ..errors import InputError

__all__ = ["check_function_dataset", "find_record_faults"]


class _Field(NamedTuple):
    """
    A field that an evaluation needs in each dict of a dataset.

    Attributes:
        is_valid (Callable): Whether a value of the field is valid.
        rule (str): What the field must be.
    """

    is_valid: Callable[[Any], bool]
    rule: str


def _is_integer(value: Any) -> bool:
    """Return whether a value is an int of Python or NumPy, and not a bool."""
    return is_integer(value) or isinstance(value, np.integer)


_SIDE = _Field(
    lambda x: _is_integer(x) and x > 0, "the number of pixels of the image file, as an int"
)
_FIELDS: Mapping[str, _Field] = {
    "image_id": _Field(
        lambda x: _is_integer(x) or isinstance(x, str),
        "an int or a text that no other image has: an evaluation finds the annotations of an "
        "image by it",
    ),
    "width": _SIDE,
    "height": _SIDE,
}


def check_function_dataset(name: str) -> None:
    """
    Check the dicts of a test set, if a Python function returns them.

    The function is called. Datasets with an annotation file ("json_file" in the metadata) have
    other checks.

    Args:
        name (str): A registered dataset.

    Raises:
        InputError: If dicts lack a field that an evaluation needs, or have a wrong value in it.
            The message lists all kinds of faults.
    """
    if MetadataCatalog.get(name).get("json_file"):
        return
    faults = list(find_record_faults(DatasetCatalog.get(name)))
    if faults:
        raise InputError.of(InputError(f"The test set {name!r}: {text}") for text in faults)


def find_record_faults(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """
    Yield a text for each kind of fault in the dicts of a dataset.

    Args:
        records (Sequence[dict]): The dicts of images.
    """
    for field, (is_valid, rule) in _FIELDS.items():
        for problem, indices in (
            ("no", [i for i, x in enumerate(records) if field not in x]),
            (
                "a wrong",
                [i for i, x in enumerate(records) if field in x and not is_valid(x[field])],
            ),
        ):
            if indices:
                yield (
                    f"{len(indices)} of {len(records)} dicts have {problem} {field!r}, the first "
                    f"is {_describe(records, indices[0], field)}. It must be {rule}."
                )
    first_indices: dict[Any, int] = {}
    valid = [(i, x["image_id"]) for i, x in enumerate(records) if _has_valid_id(x)]
    repeated = [i for i, image_id in valid if first_indices.setdefault(image_id, i) != i]
    if repeated:
        index = repeated[0]
        yield (
            f"{len(repeated)} of {len(records)} dicts have an 'image_id' that another one has "
            f"too, the first is {_describe(records, index, 'image_id')}, as index "
            f"{first_indices[records[index]['image_id']]} has. Give each image its own."
        )


def _has_valid_id(record: Mapping[str, Any]) -> bool:
    """Return whether a dict has an image id of a valid type."""
    return "image_id" in record and _FIELDS["image_id"].is_valid(record["image_id"])


def _describe(records: Sequence[Mapping[str, Any]], index: int, field: str) -> str:
    """Describe a dict by its index, its file and the value of a field."""
    record = records[index]
    file = f" ({record['file_name']})" if "file_name" in record else ""
    value = f" with {field} = {record[field]!r}" if field in record else ""
    return f"index {index}{file}{value}"
