"""Drawing of boxes with labels that stay readable, in any script."""

from .boxes import Picture, draw_boxes, draw_side_by_side, save_picture
from .fonts import DrawableNames, drawable_names

__all__ = [
    "DrawableNames",
    "Picture",
    "draw_boxes",
    "draw_side_by_side",
    "drawable_names",
    "save_picture",
]
