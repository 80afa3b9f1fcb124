"""Boxes that are marked as crowds, and findings about them in words for their use."""

from collections.abc import Iterable
from typing import Any

from .findings import Finding, Kind, reword

__all__ = ["CROWD", "describe_crowds", "read_crowd"]

# Values of iscrowd, which are also equal to True, False, 0.0 and 1.0.
_VALUES: dict[Any, int] = {0: 0, 1: 1, "0": 0, "1": 1, None: 0}
_CVAT = "CVAT writes this for every mask. Set iscrowd to 0 for single objects"
_IN_LAZY_CONFIGS = "(in a LazyConfig keep_crowd_boxes of the mapper)"
CROWD = Kind(
    "crowd",
    "{box is|boxes are} marked iscrowd = 1 and {is|are} not trained on",
    f"{_CVAT}; for real crowds, FCOS_TRAIN.KEEP_CROWD_BOXES True {_IN_LAZY_CONFIGS} keeps them "
    "from being trained as background.",
)
_KEPT = CROWD._replace(
    remedy=f"{_CVAT}; FCOS_TRAIN.KEEP_CROWD_BOXES {_IN_LAZY_CONFIGS}, which is set, is for real "
    "crowds."
)
_DROPPED = CROWD._replace(remedy=f"{_CVAT}.")  # by models that cannot keep them
_EVALUATED = CROWD._replace(
    text="{box is|boxes are} marked iscrowd = 1, and COCO's metrics ignore such boxes",
    remedy=f"{_CVAT}.",
)


def read_crowd(value: Any) -> int | None:
    """Return 0 or 1 for an iscrowd in any form, and None if it means neither."""
    try:
        return _VALUES.get(value)
    except TypeError:  # a list cannot be a key
        return None


def describe_crowds(
    findings: Iterable[Finding], *, is_training_set: bool, keep_crowd_boxes: bool | None = False
) -> list[Finding]:
    """
    Return findings with those about crowds in words for the use of the dataset.

    Args:
        findings (list[Finding]): The findings.
        is_training_set (bool): Whether the run trains on the dataset.
        keep_crowd_boxes (bool | None): Whether FCOS_TRAIN.KEEP_CROWD_BOXES is True; None for a
            model that cannot keep them.
    """
    kind = {True: _KEPT, False: CROWD, None: _DROPPED}[keep_crowd_boxes]
    if not is_training_set:
        kind = _EVALUATED
    return [
        reword(x, (CROWD, _KEPT, _DROPPED, _EVALUATED), kind)
        if CROWD.name in (x.kind, x.reason)
        else x
        for x in findings
    ]
