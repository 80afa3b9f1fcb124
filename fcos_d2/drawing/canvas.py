"""A picture with boxes, keypoints and texts, drawn by matplotlib."""

from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import CircleCollection, Collection, LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from numpy.typing import NDArray

from .colors import Color, class_color
from .fonts import printable
from .keypoints import Skeleton, arrange_skeletons
from .label_places import place_labels
from .labels import format_labels
from .sizes import sizes_for

__all__ = ["Canvas", "Picture"]

Picture = NDArray[np.uint8]  # (H, W, 3) RGB

_THIN = 0.6  # width of the boxes of objects with masks, and of the lines between keypoints
_LINE_SHARE = 1 / 6  # the largest width of the lines of a box, as a share of its shorter side
_LABEL_SHARE = 1 / 3  # of the width of a picture that a label may cover
_MIN_LABEL_WIDTH = 12  # in widths of an "m"; narrow pictures have labels of this width, or theirs
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
        self.size = (width, height)
        self.figure = Figure(frameon=False)
        # matplotlib rounds down.
        self.figure.set_size_inches(*((x + 0.01) / self.figure.dpi for x in self.size))
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

    def draw_title(self, title: str) -> list[tuple[float, float, float, float]]:
        """
        Draw a text in the upper left corner.

        Returns:
            list[tuple]: Its area xyxy. The list is empty if the picture is too small for the text
            and a label.
        """
        text = self._add_text(title, (0.1, 0.1, 0.1), color="white", size=1.4 * self.font_size)
        width, height = self.measure(text)
        if width > self.size[0] or 3 * height > self.size[1]:
            text.remove()
            return []
        self.move(text, (0, 0))
        return [(0, 0, width, height)]

    def draw_labels(
        self,
        names: Sequence[str],
        scores: Sequence[float],
        classes: Sequence[int],
        boxes: NDArray[np.float64],
        taken: Sequence[tuple[float, float, float, float]],
    ) -> None:
        """
        Draw labels near boxes, in the colors of their classes.

        Labels without a free place are left out. The first ones are placed first.

        Args:
            names (list[str]): M names; "" without a score has no label.
            scores (list[float]): M scores, or none.
            classes (list[int]): M class indices.
            boxes (array): (M, 4) xyxy.
            taken (list[tuple]): Areas xyxy where no label may be.
        """
        em = self.font_size * self.points
        max_width = max(_LABEL_SHARE * self.size[0], _MIN_LABEL_WIDTH * em)
        max_width = min(max_width, self.size[0] - 2 * self._padding() * self.points)
        labels = format_labels(names, scores, max_width, self.measure_width)
        shown = [i for i, label in enumerate(labels) if label]
        texts = [self._add_text(labels[i], class_color(classes[i])) for i in shown]
        sizes = [self.measure(text) for text in texts]
        outlines = boxes[shown] + self.line_width * self.points / 2 * np.array([-1, -1, 1, 1])
        places = place_labels(sizes, outlines, self.size, taken)
        for rank, (text, place) in enumerate(zip(texts, places, strict=True)):
            if place is None:
                text.remove()
                continue
            text.set_zorder(text.get_zorder() - rank)  # neighbors may overlap by a pixel
            self.move(text, place)

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

    def measure_width(self, text: str) -> float:
        """Return the width of the text of a label without its background."""
        font = FontProperties(family=self.families, size=self.font_size)
        width, _, _ = self.renderer.get_text_width_height_descent(text, font, ismath=False)
        return float(width)

    def measure(self, text: Text) -> tuple[float, float]:
        """Return width and height of a text with its background."""
        area = text.get_window_extent(self.renderer)
        padding = 2 * self._padding() * self.points
        return area.width + padding, area.height + padding

    def move(self, text: Text, corner: tuple[float, float]) -> None:
        """Move the left upper corner of a text's background."""
        padding = self._padding() * self.points
        text.set_position((corner[0] + padding, corner[1] + padding))

    def to_picture(self) -> Picture:
        """Draw everything that was added, and return (H, W, 3) uint8 RGB."""
        self.figure.draw(self.renderer)
        return cast(Picture, cv2.cvtColor(self.pixels, cv2.COLOR_RGBA2RGB))
