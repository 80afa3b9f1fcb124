"""Sizes of texts and lines, which grow more slowly than the picture."""

import math
from typing import NamedTuple

__all__ = ["Sizes", "sizes_for"]

_FULL_SIDE = 640  # up to this side of a square picture, sizes are proportional to it


class Sizes(NamedTuple):
    """
    Sizes of what is drawn over a picture.

    Attributes:
        font (float): Height of the font of labels, in points.
        line (float): Width of the lines of boxes, in points.
        outline (int): Width of the outlines of masks, in pixels.
    """

    font: float
    line: float
    outline: int


def sizes_for(width: int, height: int) -> Sizes:
    """
    Return the sizes for a picture in pixels.

    In large pictures, they grow with the square root of the side: a picture of 12 megapixels often
    has objects of 30 pixels, which lines of 16 pixels would hide.
    """
    side = math.sqrt(width * height)
    side = min(side, math.sqrt(_FULL_SIDE * side))
    font = max(7.0, side / 75)
    return Sizes(font, max(1.0, font / 4), max(1, round(side / 350)))
