"""Keypoints of datasets in detectron2's metadata: names, left/right pairs and connections."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from detectron2.data import MetadataCatalog

__all__ = [
    "connection_rules_of",
    "find_left_right_pairs",
    "find_single_sides",
    "keypoint_metadata",
    "keypoint_names_of",
    "num_keypoints_of",
]

# The words of names such as left_eye, LeftEye, LEye, "eye L" and LEFT-EYE.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_a-zA-Z]+|\d+")
_SIDE = re.compile("left|right")
_OTHER_SIDE = {"left": "right", "right": "left"}
_LETTERS = {"l": "left", "r": "right"}
_BETWEEN = "mnopq"  # the letters between l and r

# Colors of lines, RGB from 0 to 255, which show where a detector confuses left and right.
_LEFT_COLOR, _RIGHT_COLOR, _MIDDLE_COLOR = (102, 204, 255), (255, 153, 51), (102, 255, 102)

Words = tuple[str, ...]


def keypoint_metadata(
    names: Sequence[str], connections: Iterable[tuple[int, int]] = ()
) -> dict[str, Any]:
    """
    Return what detectron2's metadata say about keypoints.

    The types are those of detectron2's own datasets, because it compares the values of datasets
    that are trained together.

    Args:
        names (Sequence[str]): The name of each keypoint.
        connections (Iterable): Pairs of indices of keypoints between which a line is drawn.

    Returns:
        dict: ``keypoint_names``, ``keypoint_flip_map`` (pairs of names that a horizontal flip
        swaps) and ``keypoint_connection_rules`` (two names and the color of their line, which
        depends on the side).
    """
    pairs = find_left_right_pairs(names)
    left, right = ({pair[i] for pair in pairs} for i in range(2))
    rules = []
    for ends in ((names[start], names[end]) for start, end in connections):
        is_left, is_right = (not side.isdisjoint(ends) for side in (left, right))
        color = _LEFT_COLOR if is_left else _RIGHT_COLOR
        rules.append((*ends, _MIDDLE_COLOR if is_left == is_right else color))
    return {
        "keypoint_names": tuple(names),
        "keypoint_flip_map": tuple(pairs),
        "keypoint_connection_rules": rules,
    }


def keypoint_names_of(dataset_name: str) -> list[str]:
    """Return the names of the keypoints of a registered dataset; none if it has none."""
    return list(MetadataCatalog.get(dataset_name).get("keypoint_names") or ())


def connection_rules_of(dataset_name: str) -> list[Any]:
    """Return the lines between keypoints of a registered dataset: two names and a color each."""
    return list(MetadataCatalog.get(dataset_name).get("keypoint_connection_rules") or ())


def num_keypoints_of(dataset_name: str) -> int:
    """Return the number of keypoints of an object of a registered dataset; 0 if it has none."""
    return len(keypoint_names_of(dataset_name))


def find_left_right_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """
    Find the pairs of keypoints that a horizontal flip swaps.

    Two names are a pair if they differ only in their sides: the texts "left" and "right" in any
    case, and the letters "l" and "r" as words (as in "eye_l" and "LEye"). The letters are no sides
    if they only count: if there are names with each of the letters between them instead. Names that
    cannot be told apart in this way, such as "left_eye" and "l_eye", have no pair.

    Args:
        names (Sequence[str]): The name of each keypoint.

    Returns:
        list[tuple[str, str]]: The pairs, left first, in the order of the names.
    """
    by_words: dict[Words, list[str]] = {}
    for name, words in _read_sides(names).items():
        by_words.setdefault(words, []).append(name)
    pairs: list[tuple[str, str]] = []
    for words, same in by_words.items():
        mirrored = _mirror(words)
        others = by_words.get(mirrored, [])
        # A name with several sides is on the side that is named first.
        if words < mirrored and len(same) == len(others) == 1:
            pairs.append((same[0], others[0]))
    order = {name: index for index, name in enumerate(names)}
    return sorted(pairs, key=lambda pair: min(order[pair[0]], order[pair[1]]))


def find_single_sides(names: Sequence[str]) -> list[str]:
    """Return the names with the word "left" or "right" that have no pair."""
    paired = {name for pair in find_left_right_pairs(names) for name in pair}
    return [x for x in names if x not in paired and not _OTHER_SIDE.keys().isdisjoint(_split(x))]


def _split(name: str) -> Words:
    """Split a name into its words, in lower case."""
    return tuple(word.lower() for word in _WORD.findall(name))


def _read_sides(names: Iterable[str]) -> dict[str, Words]:
    """Return the words of each name, with the letters "l" and "r" as words if they are sides."""
    split = {name: _split(name) for name in names}
    known = set(split.values())

    def is_side(words: Words, index: int) -> bool:
        """Return whether the word is a letter for a side, and not one of an enumeration."""
        start, end = words[:index], words[index + 1 :]
        return words[index] in _LETTERS and not all((*start, x, *end) in known for x in _BETWEEN)

    return {
        name: tuple(_LETTERS[x] if is_side(words, i) else x for i, x in enumerate(words))
        for name, words in split.items()
    }


def _mirror(words: Words) -> Words:
    """Swap the sides in the words of a name."""
    return tuple(_SIDE.sub(lambda match: _OTHER_SIDE[match[0]], word) for word in words)
