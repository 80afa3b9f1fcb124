"""The style of all figures, and the function that writes them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "BLUE",
    "GRAY",
    "INK",
    "LEVEL_COLORS",
    "ORANGE",
    "OWNER_COLORS",
    "RED",
    "TEAL",
    "add_box",
    "show_image",
    "write_figure",
]

INK, GRAY, LIGHT = "#22303c", "#8a97a3", "#e3e8ec"
BLUE, TEAL, ORANGE, RED, VIOLET = "#2f6db5", "#1d9a8a", "#e8962e", "#d1495b", "#7b5aa6"
LEVEL_COLORS = (BLUE, TEAL, ORANGE, RED)  # from fine to coarse
OWNER_COLORS = (BLUE, ORANGE, TEAL, RED, VIOLET, "#c4a000", "#4aa3df", "#9c5a3c")

WIDTH = 8.4  # inches, of every figure; shown about 700 pixels wide
_DPI = 130
_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.edgecolor": GRAY,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def write_figure(
    path: Path, height: float, rows: int = 1, columns: int = 1, **kwargs: Any
) -> Iterator[tuple[Figure, Any]]:
    """
    Yield axes to draw on, then write them as a PNG.

    The PNG has at most 256 colors and is the same on every run.
    """
    with mpl.rc_context(_RC):
        figure, axes = plt.subplots(
            rows, columns, figsize=(WIDTH, height), layout="constrained", **kwargs
        )
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        yield figure, axes
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI)
        plt.close(figure)
    # 256 colors make a small file; MAXCOVERAGE keeps the colors of thin lines and small dots.
    picture = Image.open(buffer).convert("RGB")
    colors = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    colors.save(path, optimize=True)


def show_image(axes: Axes, image: NDArray[Any], fade: float = 0.0) -> None:
    """
    Show an image in pixel coordinates, where 0 is the left edge of the first pixel.

    Args:
        axes (Axes): Axes to draw on.
        image (NDArray): (H, W, 3) RGB from 0 to 255.
        fade (float): From 0 (as it is) to 1 (white).
    """
    height, width = image.shape[:2]
    shown = (image * (1 - fade) + 255 * fade).astype("uint8")
    axes.imshow(shown, extent=(0, width, height, 0), interpolation="nearest")
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def add_box(axes: Axes, xyxy: Iterable[Any], color: str, **kwargs: Any) -> None:
    """Draw the outline of a box."""
    x1, y1, x2, y2 = (float(v) for v in xyxy)
    style = {"fill": False, "linewidth": 2, **kwargs}
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, edgecolor=color, **style))
