"""The names of the keypoints in the categories of an annotation file, and their connections."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ...errors import InputError, listed, short_repr

__all__ = ["KeypointLayout", "read_layout"]


class KeypointLayout(NamedTuple):
    """
    The keypoints that an object can have.

    Attributes:
        names (tuple[str, ...]): Their names; empty if the categories have none.
        connections (tuple[tuple[int, int], ...]): Pairs of indices between which a line is drawn.
    """

    names: tuple[str, ...] = ()
    connections: tuple[tuple[int, int], ...] = ()


def read_layout(categories: Iterable[Mapping[str, Any]]) -> KeypointLayout:
    """
    Read the fields "keypoints" and "skeleton" of categories.

    Categories may have no keypoints. All others must have the same names.

    Args:
        categories (Iterable[dict]): Normalized categories.

    Raises:
        InputError: If the fields of a category are not valid, or if categories have different
            names.
    """
    first: Mapping[str, Any] = {}
    layout = KeypointLayout()
    for category in (x for x in categories if x.get("keypoints")):
        names = _read_names(category)
        connections = _read_connections(category, len(names))
        if not layout.names:
            first, layout = category, KeypointLayout(names, connections)
        elif names != layout.names:
            raise InputError(
                f"The categories {first['name']!r} and {category['name']!r} have different "
                f"keypoints: {listed(layout.names)}; and {listed(names)}. A detector has the same "
                "keypoints for all of its classes. Leave out one of the classes, or give all the "
                "same names."
            )
    return layout


def _read_names(category: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the keypoints of a category."""
    names = category["keypoints"]
    is_valid = isinstance(names, list) and all(isinstance(x, str) and x for x in names)
    if not is_valid or len(set(names)) < len(names):
        raise InputError(
            f"The keypoints of the category {category['name']!r} must be a list of different "
            f"names, not {short_repr(names)}."
        )
    return tuple(names)


def _read_connections(category: Mapping[str, Any], count: int) -> tuple[tuple[int, int], ...]:
    """Return the skeleton of a category, whose numbers start from 1, as indices."""
    skeleton = category.get("skeleton") or []
    numbers = range(1, count + 1)
    pairs = skeleton if isinstance(skeleton, list) else [skeleton]
    for pair in pairs:
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not (is_pair and all(type(x) is int and x in numbers for x in pair)):
            raise InputError(
                f"The skeleton of the category {category['name']!r} must be a list of pairs "
                f"[start, end] of the numbers of keypoints, from 1 to {count}, not with "
                f"{short_repr(pair)}. It is only drawn, and may be left out."
            )
    return tuple((start - 1, end - 1) for start, end in pairs)
