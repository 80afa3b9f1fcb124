"""Masks, painted into an image as transparent areas with thin outlines."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from .colors import Color

__all__ = ["paint_masks"]

_FILL_OPACITY = 0.4
_EDGE_COLOR: Color = (0.0, 0.0, 0.0)
_EDGE_OPACITY = 0.5


def paint_masks(
    image: NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_] | None],
    colors: Sequence[Color],
    line_width: int,
) -> NDArray[np.uint8]:
    """
    Fill masks with transparent colors and outline them, the first ones over the others.

    The outline has the color of the mask and is inside of it. Around it is a dark edge of one
    pixel. So two masks of the same color can be told apart where they touch, and bright masks can
    be seen on bright images.

    Args:
        image (array): (H, W, 3) uint8 RGB.
        masks (list[array | None]): M masks (H', W') bool of the image in any resolution; None
            paints nothing.
        colors (list[Color]): M colors.
        line_width (int): Width of the outlines in pixels.

    Returns:
        array: (H, W, 3) uint8 RGB, a new array.
    """
    painted = image.copy()
    for mask, color in reversed([*zip(masks, colors, strict=True)]):
        if mask is not None and mask.any():
            _paint_mask(painted, _resize(mask, image.shape[:2]), color, line_width)
    return painted


def _paint_mask(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], color: Color, line_width: int
) -> None:
    """Paint a mask (H, W) of 0 and 1, which has a pixel, into an image."""
    area = _find_area(mask, margin=1)  # with the edge
    mask, part = mask[area], image[area]
    circle = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * line_width + 1,) * 2)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    # What is outside of the image is outside of the object: outlines are closed.
    eroded = cv2.erode(mask, circle, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    is_object, is_inner = mask.astype(bool), eroded.astype(bool)
    is_near = cv2.dilate(mask, cross).astype(bool)
    _blend(part, is_near & ~is_object, _EDGE_COLOR, _EDGE_OPACITY)
    _blend(part, is_inner, color, _FILL_OPACITY)
    _blend(part, is_object & ~is_inner, color, 1.0)


def _resize(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a mask in another size, with smooth borders, as 0 and 1."""
    if mask.shape == shape:
        return mask.view(np.uint8)
    smooth = cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC) >= 0.5
    if smooth.any():
        return smooth.view(np.uint8)
    # It was a single pixel.
    nearest = cv2.resize(mask.view(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)
    return nearest.astype(np.uint8)


def _find_area(mask: NDArray[np.uint8], margin: int) -> tuple[slice, slice]:
    """Return rows and columns of the area of a mask that has a pixel, with a margin around it."""
    x, y, width, height = cv2.boundingRect(mask)
    rows = slice(max(y - margin, 0), y + height + margin)
    return rows, slice(max(x - margin, 0), x + width + margin)


def _blend(
    image: NDArray[np.uint8], where: NDArray[np.bool_], color: Color, opacity: float
) -> None:
    """Mix a color into the pixels of an image (H, W, 3) where a map (H, W) is True."""
    values = np.arange(256)[:, None]
    mixed = (1 - opacity) * values + opacity * 255 * np.array(color)  # (256, 3)
    table = np.round(mixed).astype(np.uint8)
    np.copyto(image, cv2.LUT(image, table[:, None]), where=where[..., None])
