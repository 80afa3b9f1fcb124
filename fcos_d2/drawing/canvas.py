"""A picture with boxes, keypoints and texts, drawn by matplotlib."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import CircleCollection, Collection, LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from numpy.typing import NDArray

from .colors import Color, class_color
from .fonts import printable
from .keypoints import Skeleton, arrange_skeletons
from .sizes import sizes_for

__all__ = ["Canvas", "Picture"]

Picture = NDArray[np.uint8]  # (H, W, 3) RGB

_THIN = 0.6  # width of the boxes of objects with masks, and of the lines between keypoints
_LINE_SHARE = 1 / 6  # the largest width of the lines of a box, as a share of its shorter side
_EDGE_COLOR = (0, 0, 0, 0.5)  # of lines, so that they are visible on bright images
_EDGE_WIDTH = 1.5  # in points, on both sides together


class Canvas:
    """
    An image with boxes, keypoints and texts, in matplotlib.

    All coordinates are pixels of the image. Texts are literal: matplotlib would read "$" as the
    start of a formula.
    """

    def __init__(self, image: Picture, families: Sequence[str]) -> None:
        """
        Start from an image.

        Args:
            image (array): (H, W, 3) RGB.
            families (list[str]): Font families for the texts.
        """
        height, width = image.shape[:2]
        self.figure = Figure(frameon=False)
        # matplotlib rounds down.
        self.figure.set_size_inches((np.array([width, height]) + 0.01) / self.figure.dpi)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.axis("off")
        self.renderer = FigureCanvasAgg(self.figure).get_renderer()
        # All is drawn into these pixels. ``imshow`` would take a second for 12 megapixels.
        self.pixels: NDArray[np.uint8] = np.asarray(self.renderer.buffer_rgba())
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA, dst=self.pixels)
        self.font_size, self.line_width, _ = sizes_for(width, height)  # in points
        self.points = self.figure.dpi / 72  # pixels of a point
        self.families = list(families)

    def draw_box(self, box: NDArray[np.float64], class_index: int, is_thin: bool = False) -> None:
        """
        Draw a box in the color of its class, with a dark edge for bright images.

        The lines of small boxes are thinner, so that they do not hide the object.

        Args:
            box (array): (4,) xyxy.
            class_index (int): The class; -1 draws a dashed box.
            is_thin (bool): Draw thin lines, which do not hide a small mask.
        """
        sides = box[2:] - box[:2]
        # Thin lines of whole pixels have the full color.
        thin = max(1, round(_THIN * self.line_width * self.points)) / self.points
        largest = max(1.0, _LINE_SHARE * sides.min()) / self.points
        width = min(thin if is_thin else self.line_width, largest)
        rectangle = Rectangle(
            tuple(box[:2]),
            *sides,
            fill=False,
            edgecolor=class_color(class_index),
            linewidth=width,
            linestyle="--" if class_index < 0 else "-",
            path_effects=[withStroke(linewidth=width + _EDGE_WIDTH, foreground=_EDGE_COLOR)],
        )
        self.axes.add_artist(rectangle)

    def draw_keypoints(
        self,
        keypoints: Sequence[NDArray[Any] | None],
        boxes: NDArray[np.float64],
        colors: Sequence[Color],
        skeleton: Skeleton,
    ) -> None:
        """
        Draw lines between keypoints and then dots, with dark edges; hollow dots are dark inside.

        Args:
            keypoints (list[array | None]): See ``arrange_skeletons``, as for the other arguments.
            boxes (array): (M, 4) xyxy.
            colors (list[Color]): M colors of the dots.
            skeleton (Skeleton): The lines.
        """
        full_size = 48 * self.line_width * self.points
        shapes = arrange_skeletons(keypoints, boxes, colors, skeleton, full_size)
        widths = _THIN * self.line_width * shapes.line_scales
        for extra, line_colors in ((_EDGE_WIDTH, [_EDGE_COLOR]), (0, shapes.line_colors)):
            lines = LineCollection([*shapes.lines], linewidths=widths + extra, colors=line_colors)
            self._add_over_boxes(lines)
        diameters = 2.9 * self.line_width * shapes.dot_scales
        self._draw_dots(shapes.dots, diameters + _EDGE_WIDTH, [_EDGE_COLOR])
        self._draw_dots(shapes.dots, diameters, shapes.dot_colors)
        is_hollow = shapes.is_hollow
        self._draw_dots(shapes.dots[is_hollow], 0.55 * diameters[is_hollow], ["black"])

    def _draw_dots(
        self, positions: NDArray[np.float64], diameters: NDArray[np.float64], colors: Any
    ) -> None:
        """Draw dots at positions (D, 2) with diameters (D,) in points."""
        areas = np.pi * (diameters / 2) ** 2
        to_pixels = self.axes.transData
        self._add_over_boxes(
            CircleCollection(
                areas,
                offsets=positions,
                offset_transform=to_pixels,
                facecolors=colors,
                edgecolors="none",
            )
        )

    def _add_over_boxes(self, collection: Collection) -> None:
        """Add lines or dots over all that was drawn, but below the texts."""
        collection.set_zorder(10)
        self.axes.add_artist(collection)

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
        return self.axes.text(
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
        """Draw everything that was added, and return (H, W, 3) uint8 RGB."""
        self.figure.draw(self.renderer)
        picture: Picture = cv2.cvtColor(self.pixels, cv2.COLOR_RGBA2RGB)
        return picture
