"""
Colors, objects with anti-aliased edges, textures and backgrounds for the scenes of ``scene.py``.

Colors are RGB from 0 to 255; sizes and positions are in pixels. (h, w) is the crop around one
object, P the number of points of an outline.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

__all__ = [
    "MIN_CONTRAST",
    "SMALL_SIZE",
    "Sprite",
    "build_sprite",
    "choose_colors",
    "paint_background",
]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# Smaller objects are complete, upright and without details, because they have so few pixels.
SMALL_SIZE = 14.0
_SUBPIXELS = 4  # per side of a pixel, which gives 16 gray levels at an edge
# The distance of the keypoints from the center as a share of that of the corners. They are inside
# of the outline, so that the object's own pixels show whether they are covered, and in the band of
# a ring.
_KEYPOINT_DISTANCE = 0.8
MIN_CONTRAST = 84.0  # minimum distance of an object's color from most of the covered pixels
_TEXTURES = ("plain", "plain", "gradient", "gradient", "stripes", "dots", "checks", "noise")
_NUM_SMOOTH_TEXTURES = 4  # the first entries of _TEXTURES
_BACKGROUNDS = ("gradient", "gradient", "noise", "noise", "noise", "stripes", "dots", "checks")


def _parse_palette(hex_colors: str) -> Floats:
    """Return the colors (number of colors, 3) of a string of hexadecimal colors."""
    return np.array([list(bytes.fromhex(color)) for color in hex_colors.split()], np.float32)


_OBJECT_PALETTE = _parse_palette(
    """e63946 f4a261 e9c46a 2a9d8f 264653 457b9d 1d3557 a8dadc f1faee 8ecae6 219ebc ffb703 fb8500
    6a4c93 b5179e 8ac926 386641 bc4749 ffafcc cdb4db 3d405b 7f5539 80ed99 4361ee"""
)
_BACKGROUND_PALETTE = _parse_palette(
    """f7f3e9 e8eddf dfe7fd fde2e4 cfe1b9 d6ccc2 b8c0c8 8d99ae 6b705c 84a59d c9ada7 e6ccb2 22223b
    14213d 2f3e46 3a2e39 335c67 5c4d7d 7d4f50 0b3c49 588157 457b9d f4d35e 90be6d f28482"""
)


def choose_colors(under: Floats, rng: Generator) -> Floats:
    """Choose two colors (2, 3) that differ visibly from most pixels of a crop (h, w, 3)."""
    under = under.reshape(-1, 3)
    under = under[:: max(len(under) // 64, 1)]
    picks = _OBJECT_PALETTE[rng.integers(len(_OBJECT_PALETTE), size=12)]
    picks = picks + rng.uniform(-14, 14, (12, 3)).astype(np.float32)
    red, green, blue = np.moveaxis((picks[:, None] - under) ** 2, 2, 0)
    distances = np.sqrt((2 * red + 4 * green + 3 * blue) / 9)  # approximate sensitivity of the eye
    contrasts = np.sort(distances, axis=1)[:, len(under) // 5]
    is_visible = contrasts >= MIN_CONTRAST
    first = picks[np.argmax(is_visible if is_visible.any() else contrasts)]
    # The second is a lighter or a darker shade, whichever differs more from the covered pixels.
    is_lighter = first[1] >= np.sort(under[:, 1])[len(under) // 2]
    second = first + (255 * is_lighter - first) * np.float32(rng.uniform(0.25, 0.6))
    return np.clip(np.stack([first, second]), 0, 255).astype(np.float32)


class Sprite(NamedTuple):
    """
    One object before it is colored and placed.

    Attributes:
        coverage (array): (h, w) share of each pixel that the object covers.
        rim (array): (h, w) share of each pixel that its darker rim covers.
        texture (array): (h, w) weight of the second color.
        keypoints (array): (5, 2) xy of the points ``KEYPOINT_NAMES``, in pixels of the crop.
    """

    coverage: Floats
    rim: Floats
    texture: Floats
    keypoints: Doubles


def build_sprite(name: str, size: float, rng: Generator) -> Sprite:
    """
    Build an object of a class, with a random outline and texture.

    Args:
        name (str): One of ``SHAPE_CLASSES``.
        size (float): The longest side of its box, in pixels.
        rng (Generator): The source of random numbers.
    """
    polygons, keypoints = _build_outline(name, size, rng)
    # The outline starts at a random place in the first pixel.
    start = np.min(polygons[0], axis=0) - rng.uniform(0, 1, 2)
    width, height = np.ceil(np.max(polygons[0], axis=0) - start).astype(int).tolist()
    fine = _fill_polygons([(p - start) * _SUBPIXELS for p in polygons], height, width)
    fine_rim = np.zeros_like(fine)
    has_details = size >= 1.5 * SMALL_SIZE
    if has_details and rng.random() < 0.3:
        thickness = int(_SUBPIXELS * rng.uniform(2.0, 4.5))  # half of it is inside of the outline
        # In OpenCV, integers are the centers of subpixels; shift=4 makes the unit a sixteenth.
        points = [np.rint(((p - start) * _SUBPIXELS - 0.5) * 16).astype(np.int32) for p in polygons]
        cv2.polylines(fine_rim, points, True, 1, thickness, shift=4)
    kind = _TEXTURES[int(rng.integers(len(_TEXTURES) if has_details else _NUM_SMOOTH_TEXTURES))]
    period = max(size * rng.uniform(0.16, 0.4), 4.0)
    texture = _paint_texture(kind, height, width, period, rng)
    coverage, rim = _average_subpixels(fine), _average_subpixels(np.minimum(fine, fine_rim))
    return Sprite(coverage, rim, texture, keypoints - start)


def _fill_polygons(polygons: list[Doubles], height: int, width: int) -> NDArray[np.uint8]:
    """
    Set the subpixels with centers inside of an odd number of polygons (P, 2).

    cv2.fillPoly is not used because it differs between OpenCV 4 and 5 and also fills the edges.
    """
    toggles = np.zeros((height * _SUBPIXELS, width * _SUBPIXELS + 1), np.uint8)
    rows = np.arange(len(toggles)) + 0.5
    for polygon in polygons:
        (x1, y1), (x2, y2) = polygon.T[..., None], np.roll(polygon, -1, axis=0).T[..., None]
        edge, row = np.nonzero((y1 <= rows) != (y2 <= rows))
        x1, y1, x2, y2 = (end[edge, 0] for end in (x1, y1, x2, y2))
        crossing = x1 + (rows[row] - y1) / (y2 - y1) * (x2 - x1)
        np.add.at(toggles, (row, np.ceil(crossing - 0.5).astype(int)), 1)
    return np.cumsum(toggles, axis=1, dtype=np.uint8)[:, :-1] % 2


def _average_subpixels(fine: NDArray[np.uint8]) -> Floats:
    """Return the share of set subpixels in each pixel."""
    parts = [
        fine[i::_SUBPIXELS, j::_SUBPIXELS] for i in range(_SUBPIXELS) for j in range(_SUBPIXELS)
    ]
    return np.add.reduce(parts, dtype=np.float32) / np.float32(_SUBPIXELS**2)


def _build_outline(name: str, size: float, rng: Generator) -> tuple[list[Doubles], Doubles]:
    """
    Build the outline of an object around (0, 0), and for a ring also the hole.

    Before it is turned, x is up and y is right. The rotation is less than half of the smallest one
    after which the outline is the same, so it can be seen. That of a circle cannot be seen: its
    keypoints are upright.

    Args:
        name (str): One of ``SHAPE_CLASSES``.
        size (float): The longest side of the outline's box, in pixels.
        rng (Generator): The source of random numbers.

    Returns:
        tuple[list[array], array]: The outlines (P, 2) xy, and the keypoints (5, 2) xy.
    """
    stretch = 1.0
    corners = _build_polygon(5)
    if name == "rectangle":
        polygons = [_turn(_build_polygon(4), math.pi / 4)]
        corners = _mirror_corners((0.5**0.5, 0), (0.5**0.5, 0.5**0.5), (-(0.5**0.5), 0.5**0.5))
        stretch = rng.uniform(0.7 if size < SMALL_SIZE else 0.42, 1.0)
    elif name == "triangle":
        polygons = [_build_polygon(3)]
        corners = _mirror_corners((1, 0), (0.25, 0.75**0.5 / 2), (-0.5, 0.75**0.5))
        stretch = rng.uniform(0.75, 1.25)
    elif name == "star":
        polygons = [_build_polygon(10, rng.uniform(0.38, 0.5))]
    elif name == "cross":
        arm = rng.uniform(0.26, 0.38)
        right = np.array([(1, -arm), (1, arm), (arm, arm)])
        polygons = [np.concatenate([_turn(right, math.pi / 2 * i) for i in range(4)])]
        corners = _mirror_corners((1, 0), (arm, arm), (-arm, arm))
    else:
        polygons = [_build_polygon(48)]
        polygons += [rng.uniform(0.5, 0.68) * polygons[0]] if name == "ring" else []
    # Turn the first point up, with a random deviation.
    angle = -math.pi / 2 + rng.uniform(-1, 1) * (0.15 if size < SMALL_SIZE else 0.35)
    polygons = [_turn(polygon * (1, stretch), angle) for polygon in polygons]
    scale = size / np.ptp(polygons[0], axis=0).max()
    angle = -math.pi / 2 if name in ("circle", "ring") else angle
    keypoints = _turn(_KEYPOINT_DISTANCE * corners * (1, stretch), angle)
    return [polygon * scale for polygon in polygons], keypoints * scale


def _mirror_corners(
    top: tuple[float, float], upper: tuple[float, float], lower: tuple[float, float]
) -> Doubles:
    """Return five points clockwise from the top; x is up, and ``upper`` and ``lower`` are right."""
    (upper_x, upper_y), (lower_x, lower_y) = upper, lower
    return np.array([top, upper, lower, (lower_x, -lower_y), (upper_x, -upper_y)], np.float64)


def _build_polygon(count: int, inner_radius: float = 1.0) -> Doubles:
    """Return points (count, 2) around (0, 0), alternately at distance 1 and ``inner_radius``."""
    angles = np.arange(count) * (2 * math.pi / count)
    radii = np.where(np.arange(count) % 2, inner_radius, 1.0)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _turn(points: Doubles, angle: float) -> Doubles:
    """Rotate points (P, 2) around (0, 0) by an angle in radians."""
    x, y = points.T
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)


def _paint_texture(kind: str, height: int, width: int, period: float, rng: Generator) -> Floats:
    """Return the weights (height, width) of a texture's second color, from 0 to 1."""
    if kind == "plain":
        return np.zeros((height, width), np.float32)
    if kind == "noise":
        coarse, fine = (_paint_noise(height, width, period / n, rng) for n in (1, 2))
        return 0.65 * coarse + 0.35 * fine
    angle, phase = rng.uniform(0, math.pi), rng.uniform(0, period)
    y, x = np.ogrid[:height, :width]
    y, x = y.astype(np.float32), x.astype(np.float32)
    u = math.cos(angle) * x + math.sin(angle) * y + phase
    if kind == "gradient":
        return np.clip((u - u.min()) / np.ptp(u), 0, 1)
    v = math.cos(angle) * y - math.sin(angle) * x + phase
    # Distances to the center of a stripe in each direction; below, weights that blend over 1 pixel.
    du, dv = (np.abs(w / period - np.floor(w / period) - 0.5) * period for w in (u, v))
    if kind == "dots":
        return np.clip(0.32 * period - np.sqrt(du * du + dv * dv) + 0.5, 0, 1)
    rows: Floats = np.clip(0.25 * period - du + 0.5, 0, 1)
    columns: Floats = np.clip(0.25 * period - dv + 0.5, 0, 1)
    return rows if kind == "stripes" else np.abs(rows - columns)


def _paint_noise(height: int, width: int, cell: float, rng: Generator) -> Floats:
    """Return smooth noise (height, width) from 0 to 1, with ``cell`` pixels between two knots."""
    noise = rng.random((int(height / cell) + 2, int(width / cell) + 2), np.float32)
    for length in (height, width):
        place = np.arange(length, dtype=np.float32) / cell
        knot = place.astype(int)
        t = (place - knot)[:, None]
        noise = (noise[knot] + t * t * (3 - 2 * t) * (noise[knot + 1] - noise[knot])).T
    return np.ascontiguousarray(noise)


def paint_background(height: int, width: int, rng: Generator) -> Floats:
    """Paint a background (height, width, 3): a texture of two colors, light, and some strokes."""
    first, second = _BACKGROUND_PALETTE[rng.integers(len(_BACKGROUND_PALETTE), size=2)]
    kind = _BACKGROUNDS[int(rng.integers(len(_BACKGROUNDS)))]
    is_pattern = kind in ("stripes", "dots", "checks")
    share = rng.uniform(0.08, 0.3) if is_pattern else rng.uniform(0.3, 0.9)
    period = rng.uniform(10, 50) if is_pattern else rng.uniform(20, 120)
    weights = _paint_texture(kind, height, width, period, rng)
    light = rng.uniform(0, 40) * (_paint_noise(height, width, rng.uniform(60, 140), rng) - 0.5)
    if rng.random() < 0.4:  # a rough surface
        light += rng.uniform(4, 16) * (_paint_noise(height, width, rng.uniform(2, 6), rng) - 0.5)
    pairs = zip(first, share * (second - first), strict=True)
    image = np.stack([start + weights * change + light for start, change in pairs], axis=2)
    return _draw_strokes(np.clip(image, 0, 255).astype(np.uint8), rng).astype(np.float32)


def _draw_strokes(image: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """Draw up to 6 lines and curves, which are not objects, into the image and return it."""
    height, width = image.shape[:2]
    t = np.linspace(0, 1, 24)[:, None]
    for _ in range(int(7 * rng.random() ** 2)):
        start = rng.uniform(0, 1, 2) * (width, height)
        bend, end = start + rng.uniform(-1, 1, (2, 2)) * rng.uniform(20, 240)
        if rng.random() < 0.4:
            bend = (start + end) / 2  # a straight line
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        points = np.rint(curve * 16).astype(np.int32)
        color = _OBJECT_PALETTE[int(rng.integers(len(_OBJECT_PALETTE)))]
        under = image[int(start[1]), int(start[0])].astype(np.float32)
        color = under + (color - under) * np.float32(rng.uniform(0.2, 0.8))
        thickness = int(rng.integers(1, 4))
        cv2.polylines(image, [points], False, color.tolist(), thickness, cv2.LINE_AA, shift=4)
    return image
