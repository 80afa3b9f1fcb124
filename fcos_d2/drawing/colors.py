"""Colors of classes, on which black text can be read."""

import colorsys

__all__ = ["CROWD_COLOR", "Color", "class_color", "luminance"]

Color = tuple[float, float, float]

CROWD_COLOR: Color = (0.7, 0.7, 0.7)
# The contrast of black text on a color of this luminance is (0.3 + 0.05) / 0.05 = 7, which WCAG 2
# recommends for small text.
_MIN_LUMINANCE = 0.3


def class_color(index: int) -> Color:
    """
    Return the color of a class; -1 is a crowd.

    Hues are in steps of the golden ratio, so neighbors differ for any number of classes. Dark hues,
    such as blue, are mixed with white.

    Args:
        index (int): The class index.

    Returns:
        tuple[float, float, float]: RGB from 0 to 1.
    """
    if index < 0:
        return CROWD_COLOR
    color = colorsys.hsv_to_rgb(index * 0.618 % 1, 0.8, 1.0)
    for _ in range(10):  # at most: each step removes a tenth of the distance to white
        if luminance(color) >= _MIN_LUMINANCE:
            break
        red, green, blue = (x + (1 - x) / 10 for x in color)
        color = (red, green, blue)
    return color


def luminance(color: Color) -> float:
    """Return the relative luminance of an sRGB color, from 0 for black to 1 for white."""
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
