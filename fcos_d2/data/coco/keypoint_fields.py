"""The fields "keypoints" and "num_keypoints" of annotations."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .box_checks import is_finite

__all__ = ["are_counts", "are_keypoints", "count_labeled", "has_other_visibility", "is_count"]

_VISIBILITIES = {0, 1, 2}


def are_keypoints(value: Any) -> bool:
    """Return whether keypoints are missing or a list of numbers, three for each."""
    if not value:
        return True
    return isinstance(value, list) and len(value) % 3 == 0 and all(map(is_finite, value))


def has_other_visibility(keypoints: Sequence[float]) -> bool:
    """Return whether valid keypoints have another visibility than 0, 1 and 2."""
    return not _VISIBILITIES.issuperset(keypoints[2::3])


def are_counts(values: Sequence[Any]) -> bool:
    """Return whether all values are integers from 0, as they usually are."""
    return set(map(type, values)) <= {int} and min(values, default=0) >= 0


def is_count(value: Any) -> bool:
    """Return whether a value is an integer from 0."""
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return is_integer and bool(value >= 0)


def count_labeled(keypoints: Sequence[float]) -> int:
    """Return how many of valid keypoints are labeled."""
    return sum(visibility > 0 for visibility in keypoints[2::3])
