"""Boxes with labels on an image."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils.visualizer import VisImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from ..atomic_write import replacing
from .colors import class_color
from .fonts import DEFAULT_FAMILIES, printable
from .label_places import place_labels

__all__ = ["Picture", "draw_boxes", "draw_side_by_side", "save_picture"]

Picture = NDArray[np.uint8]

_MIN_SIDE = 640  # smaller images are enlarged, so that the labels do not hide them
_GAP = 12  # pixels between two pictures


def draw_boxes(
    image: Picture,
    boxes: NDArray[Any],
    classes: Sequence[int],
    labels: Sequence[str],
    title: str = "",
    families: Sequence[str] = DEFAULT_FAMILIES,
) -> Picture:
    """
    Draw boxes on an image, in one color for each class. Small images are enlarged.

    The first boxes are the most important ones: they are drawn over the others, and their labels
    are never covered.

    Args:
        image (array): (H, W, 3) uint8 RGB.
        boxes (array): (M, 4) xyxy in pixels of the image.
        classes (list[int]): M class indices. -1 draws a dashed gray box.
        labels (list[str]): M texts near the boxes, or "".
        title (str): A text in the upper left corner, or "".
        families (list[str]): Font families for the labels, from ``drawable_names``.

    Returns:
        array: (H', W', 3) uint8 RGB, with H' >= H and W' >= W.
    """
    factor = max(1.0, _MIN_SIDE / max(image.shape[:2]))
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    canvas = _Canvas(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), families)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * factor
    for k, box in reversed([*zip(classes, boxes, strict=True)]):
        canvas.draw_box(box, k)
    taken = [canvas.draw_title(title)] if title else []
    labeled = [i for i, label in enumerate(labels) if printable(label)]
    texts = [canvas.add_label(labels[i], classes[i], -rank) for rank, i in enumerate(labeled)]
    sizes = [canvas.measure(text) for text in texts]
    outlines = boxes[labeled] + canvas.line_width * canvas.points / 2 * np.array([-1, -1, 1, 1])
    for text, place in zip(texts, place_labels(sizes, outlines, size, taken), strict=True):
        canvas.move(text, place)
    return canvas.to_picture()


class _Canvas:
    """
    An image with boxes and texts, in matplotlib.

    All coordinates are pixels of the image. Texts are literal: matplotlib would read "$" as the
    start of a formula.
    """

    def __init__(self, image: Image.Image, families: Sequence[str]) -> None:
        self.output = VisImage(np.asarray(image))
        self.renderer = self.output.canvas.get_renderer()
        self.font_size = max(7.0, math.sqrt(image.width * image.height) / 75)  # in points
        self.line_width = max(1.0, self.font_size / 4)  # in points
        self.points = self.output.dpi / 72  # pixels of a point
        self.families = list(families)

    def draw_box(self, box: NDArray[np.float64], class_index: int) -> None:
        """Draw a box in the color of its class, with a dark edge for bright images."""
        dark_edge = withStroke(linewidth=self.line_width + 1.5, foreground=(0, 0, 0, 0.5))
        rectangle = Rectangle(
            tuple(box[:2]),
            *(box[2:] - box[:2]),
            fill=False,
            edgecolor=class_color(class_index),
            linewidth=self.line_width,
            linestyle="--" if class_index < 0 else "-",
            path_effects=[dark_edge],
        )
        self.output.ax.add_patch(rectangle)

    def draw_title(self, title: str) -> tuple[float, float, float, float]:
        """Draw a text in the upper left corner, and return its area xyxy."""
        text = self._add_text(title, (0.1, 0.1, 0.1), color="white", size=1.4 * self.font_size)
        width, height = self.measure(text)
        self.move(text, np.zeros(2))
        return 0, 0, width, height

    def add_label(self, label: str, class_index: int, priority: float) -> Text:
        """Add a label in the color of its class; it is drawn over those of lower priority."""
        return self._add_text(label, class_color(class_index), zorder=1e6 + priority)

    def _add_text(self, text: str, background: tuple[float, float, float], **style: Any) -> Text:
        """Add a text to the picture, and return it."""
        return self.output.ax.text(
            0,
            0,
            printable(text),
            **{"size": self.font_size, "color": "black", "zorder": 1e6, **style},
            family=self.families,
            bbox={"facecolor": background, "edgecolor": "none", "pad": self._padding()},
            verticalalignment="top",
            parse_math=False,
            usetex=False,
        )

    def _padding(self) -> float:
        """Return the distance from a text to the edge of its background, in points."""
        return 0.15 * self.font_size

    def measure(self, text: Text) -> tuple[float, float]:
        """Return width and height of a text with its background."""
        area = text.get_window_extent(self.renderer)
        padding = 2 * self._padding() * self.points
        return area.width + padding, area.height + padding

    def move(self, text: Text, corner: NDArray[np.float64]) -> None:
        """Move the left upper corner of a text's background."""
        text.set_position(tuple(corner + self._padding() * self.points))

    def to_picture(self) -> Picture:
        """Draw everything, and return (H, W, 3) uint8 RGB."""
        picture: Picture = self.output.get_image()
        return picture


def draw_side_by_side(left: Picture, right: Picture) -> Picture:
    """Join two pictures of equal height, with a white gap between them."""
    gap = np.full((left.shape[0], _GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def save_picture(picture: Picture, path: Path) -> None:
    """Write a picture, (H, W, 3) uint8 RGB, in the format that the suffix of the path names."""
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary)
