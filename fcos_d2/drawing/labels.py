"""Texts of labels: names of classes with scores, shortened where they are too wide."""

from bisect import bisect_right
from collections.abc import Callable, Sequence

from .fonts import printable

__all__ = ["format_labels", "shorten"]


def format_labels(
    names: Sequence[str],
    scores: Sequence[float],
    max_width: float,
    measure: Callable[[str], float],
) -> list[str]:
    """
    Return texts such as "traffic light 87%".

    The names are shortened where a text would be too wide, all that are equal in the same way.
    Scores are never shortened.

    Args:
        names (list[str]): M names.
        scores (list[float]): M scores from 0 to 1. Empty if the objects have no scores.
        max_width (float): The maximum width of a text.
        measure (callable): Returns the width of a text.
    """
    ends = [f" {x:.0%}" for x in scores] or [""] * len(names)
    space = max_width - max(map(measure, {*ends}), default=0)
    shown = {name: shorten(printable(name), space, measure) for name in {*names}}
    return [f"{shown[name]}{end}".strip() for name, end in zip(names, ends, strict=True)]


def shorten(text: str, max_width: float, measure: Callable[[str], float]) -> str:
    """
    Return a text with "…" in place of its middle, or as it is if it is not too wide.

    The start and the end are kept, because names such as "apple, ripe" and "apple, rotten" often
    differ in one of them.

    Args:
        text (str): The text.
        max_width (float): The maximum width. If there is no space for a character, the result is
            "…", even if it is wider.
        measure (callable): Returns the width of a text.
    """
    if measure(text) <= max_width:
        return text
    counts = range(len(text))
    # The number of counts whose texts fit, of which the last one is the largest.
    fitting = bisect_right(counts, max_width, key=lambda count: measure(_cut(text, count)))
    return _cut(text, max(fitting - 1, 0))


def _cut(text: str, count: int) -> str:
    """Return a text with "…" in place of all but some of its first and last characters."""
    start, end = (count + 1) // 2, count // 2
    return f"{text[:start].rstrip()}…{text[len(text) - end :].lstrip()}"
