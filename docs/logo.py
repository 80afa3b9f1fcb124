"""
Draw the logo: a location inside a box, with its four distances l, t, r, b.

    python docs/logo.py
"""

from pathlib import Path

__all__ = ["draw_logo"]

_FILE = Path(__file__).parent / "images" / "logo.svg"

# In units of a canvas of 64 x 64. The location is not in the middle of the box, so that the four
# arrows look like distances and not like a plus sign.
_SIZE = 64
_BOX = (10, 10, 54, 54)  # x1, y1, x2, y2
_LOCATION = (26, 28)
_TILE_COLOR, _BOX_COLOR, _DISTANCE_COLOR = "#2f6db5", "#ffffff", "#ffc24d"
_BOX_WIDTH, _DISTANCE_WIDTH, _ARROW, _DOT_RADIUS = 4, 4, 6, 6


def draw_logo() -> str:
    """Return the logo as the text of an SVG file."""
    (x, y), (x1, y1, x2, y2) = _LOCATION, _BOX
    left, top, right, bottom = x - x1, y - y1, x2 - x, y2 - y
    arrows = [
        _draw_arrow(dx, dy, distance - _BOX_WIDTH / 2)
        for dx, dy, distance in ((-1, 0, left), (0, -1, top), (1, 0, right), (0, 1, bottom))
    ]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIZE} {_SIZE}">',
        "  <title>fcos_d2</title>",
        f'  <rect width="{_SIZE}" height="{_SIZE}" rx="14" fill="{_TILE_COLOR}"/>',
        f'  <rect x="{x1}" y="{y1}" width="{x2 - x1}" height="{y2 - y1}" rx="3" fill="none" '
        f'stroke="{_BOX_COLOR}" stroke-width="{_BOX_WIDTH}"/>',
        *arrows,
        f'  <circle cx="{x}" cy="{y}" r="{_DOT_RADIUS}" fill="{_BOX_COLOR}"/>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _draw_arrow(dx: int, dy: int, length: float) -> str:
    """Draw one distance: a line from the location, and an arrowhead that touches the box."""
    x, y = _LOCATION
    tip = (x + dx * length, y + dy * length)
    neck = (tip[0] - dx * _ARROW, tip[1] - dy * _ARROW)
    across = (dy * _ARROW * 0.85, dx * _ARROW * 0.85)
    head = [
        tip,
        (neck[0] + across[0], neck[1] + across[1]),
        (neck[0] - across[0], neck[1] - across[1]),
    ]
    points = " ".join(f"{a:g},{b:g}" for a, b in head)
    return (
        f'  <path d="M{x},{y} L{neck[0]:g},{neck[1]:g}" stroke="{_DISTANCE_COLOR}" '
        f'stroke-width="{_DISTANCE_WIDTH}"/>\n'
        f'  <polygon points="{points}" fill="{_DISTANCE_COLOR}"/>'
    )


if __name__ == "__main__":
    _FILE.write_text(draw_logo())
