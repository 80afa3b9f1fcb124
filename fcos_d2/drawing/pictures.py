"""Pictures of objects on an image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..atomic_write import replacing
from .canvas import Canvas, Picture
from .colors import class_color
from .fonts import DEFAULT_FAMILIES
from .masks import paint_masks
from .objects import DrawnObjects
from .sizes import sizes_for

__all__ = ["Picture", "draw_objects", "draw_side_by_side", "save_picture"]

_MIN_SIDE = 640  # smaller images are enlarged, so that the labels do not hide them
_GAP = 12  # pixels between two pictures


def draw_objects(
    image: Picture,
    objects: DrawnObjects,
    title: str = "",
    families: Sequence[str] = DEFAULT_FAMILIES,
) -> Picture:
    """
    Draw objects on an image, in one color for each class. Small images are enlarged.

    The first objects are the most important ones: they are drawn over the others, and their labels
    are placed first. Labels are never covered or cut: those without a free place are left out.

    Args:
        image (array): (H, W, 3) uint8 RGB.
        objects (DrawnObjects): The objects. Their masks have the size of the image.
        title (str): A text in the upper left corner, or "". Pictures that are too small for it do
            not have it.
        families (list[str]): Font families for the labels, from ``drawable_names``.

    Returns:
        array: (H', W', 3) uint8 RGB, with H' >= H and W' >= W.
    """
    factor = max(1.0, _MIN_SIDE / max(image.shape[:2]))
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    if factor > 1:
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    colors = [class_color(k) for k in objects.classes]
    masks = objects.masks or [None] * len(colors)
    painted = paint_masks(image, masks, colors, sizes_for(*size).outline)
    if not (colors or title):
        return painted
    canvas = Canvas(painted, families)
    boxes = np.asarray(objects.boxes, dtype=np.float64).reshape(-1, 4) * factor
    for k, box, mask in reversed([*zip(objects.classes, boxes, masks, strict=True)]):
        canvas.draw_box(box, k, is_thin=mask is not None)
    if objects.keypoints:
        keypoints = [x if x is None else x * [factor, factor, 1] for x in objects.keypoints]
        canvas.draw_keypoints(keypoints, boxes, colors, objects.skeleton)
    taken = canvas.draw_title(title) if title else []
    canvas.draw_labels(objects.labels, objects.scores, objects.classes, boxes, taken)
    return canvas.to_picture()


def draw_side_by_side(left: Picture, right: Picture) -> Picture:
    """Join two pictures of equal height, with a white gap between them."""
    gap = np.full((left.shape[0], _GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def save_picture(picture: Picture, path: Path) -> None:
    """
    Write a picture, (H, W, 3) uint8 RGB, as a PNG file.

    For photos, the lowest compression takes a quarter of the time of the default one, and a fifth
    more space.
    """
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, compress_level=1)
