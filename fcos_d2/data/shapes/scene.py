"""
Drawing of scenes of simple shapes: an image, and the object that is visible at each pixel.

A scene depends only on (split, index). Pixels are computed only by OpenCV's integer operations and
by correctly rounded ones (+ - * / sqrt), so they do not depend on the vector instructions of a CPU.
Colors are RGB from 0 to 255; sizes and positions are in pixels.

Shapes: (H, W) an image, M objects of an image.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .paint import (
    SMALL_SIZE,
    Doubles,
    Floats,
    Sprite,
    build_sprite,
    choose_colors,
    paint_background,
)
from .spec import SHAPE_CLASSES, SIZE_RANGE

__all__ = ["Scene", "draw_scene"]

_SPLIT_SEEDS = {"train": 1, "val": 2}
_EMPTY_SCENE, _CROWD_SCENE, _PACKED_SCENES = 6, 12, (3, 18)  # indices modulo 25
_SIDES = (192, 224, 256, 256, 256)
_CLASS_MIN_SIZES = (7, 6, 6, 8, 7, 6)  # in smaller objects, people confuse the classes
_SIZE_SKEW = 0.32  # with 1, log(size) is uniform; with less, there are more large sizes


class Scene(NamedTuple):
    """
    An image and its objects.

    Attributes:
        image (array): (H, W, 3) RGB.
        owner (array): (H, W) index of the object that is visible at each pixel; -1 is background.
        classes (list[int]): M indices into SHAPE_CLASSES.
        is_crowd (list[bool]): M flags, True for a dense group of shapes of one class.
        keypoints (list[array]): M arrays (5, 2), the xy of the points ``KEYPOINT_NAMES``, which may
            be covered or outside of the image; (0, 2) for a crowd.
    """

    image: NDArray[np.uint8]
    owner: NDArray[np.int16]
    classes: list[int]
    is_crowd: list[bool]
    keypoints: list[Doubles]


def draw_scene(split: str, index: int) -> Scene:
    """
    Draw one scene.

    Of 25 scenes, 1 has no object, 1 has a crowd and up to 4 objects, 2 are densely packed, and the
    others have 1 to 12 objects. At least 65 % of each object is visible, and 85 % of each small
    one. An object is left out if there is no place for it.

    Args:
        split (str): "train" or "val".
        index (int): The number of the scene in its split, from 0. Scenes are independent of each
            other.

    Returns:
        Scene: The scene. Its image is 192 to 256 pixels high and wide.
    """
    rng = Generator(np.random.PCG64([_SPLIT_SEEDS[split], index]))
    height, width = (_SIDES[i] for i in rng.integers(len(_SIDES), size=2))
    canvas = _Canvas(paint_background(height, width, rng))
    kind = index % 25
    if kind == _CROWD_SCENE:
        canvas.draw_crowd(rng)
        canvas.draw_objects(int(rng.integers(5)), SIZE_RANGE[1], rng)
    elif kind in _PACKED_SCENES:
        canvas.draw_objects(int(rng.integers(16, 31)), 64.0, rng)
    elif kind != _EMPTY_SCENE:
        canvas.draw_objects(1 + int(12 * rng.random() ** 1.4), SIZE_RANGE[1], rng)
    if rng.random() < 0.25:  # film grain
        grain = rng.random((height, width, 1), np.float32) - np.float32(0.5)
        canvas.image += grain * np.float32(rng.uniform(6, 24))
    image = np.clip(canvas.image + 0.5, 0, 255).astype(np.uint8)
    return Scene(image, canvas.owner, canvas.classes, canvas.is_crowd, canvas.keypoints)


class _Canvas:
    """A scene that is being drawn."""

    def __init__(self, image: Floats) -> None:
        """
        Start from a background.

        Args:
            image (array): (H, W, 3).
        """
        self.image = image
        self.owner: NDArray[np.int16] = np.full(image.shape[:2], -1, np.int16)
        self.classes: list[int] = []
        self.is_crowd: list[bool] = []
        self.keypoints: list[Doubles] = []
        self.least_areas: list[float] = []  # (M,) number of pixels that must stay visible

    def draw_objects(self, count: int, max_size: float, rng: Generator) -> None:
        """Draw objects, roughly from large to small, because large ones would hide small ones."""
        # Four in ten are small by COCO's definition (32 x 32), as in COCO itself.
        spread = rng.uniform(0, 1, count) ** _SIZE_SKEW
        sizes = SIZE_RANGE[0] * np.exp(spread * math.log(max_size / SIZE_RANGE[0]))
        for size in sizes[np.argsort(-sizes * rng.uniform(0.6, 1.6, count))].tolist():
            labels = [i for i, min_size in enumerate(_CLASS_MIN_SIZES) if size >= min_size]
            label = labels[int(rng.integers(len(labels)))]
            sprite = build_sprite(SHAPE_CLASSES[label], size, rng)
            mask = sprite.coverage >= 0.5
            corner = self._find_place(mask, size < SMALL_SIZE, rng)
            if corner is not None:
                target, _ = _intersect(corner, mask.shape, self.owner.shape)
                self._stamp(sprite, corner, choose_colors(self.image[target], rng))
                min_visible = 0.85 if size < SMALL_SIZE else 0.65
                keypoints = sprite.keypoints + np.array(corner[::-1])
                self._finish_object(label, keypoints, min_visible * int(mask.sum()))

    def draw_crowd(self, rng: Generator) -> None:
        """Draw 15 to 60 small shapes of one class and color in uneven rows, as one object."""
        label = int(rng.integers(len(SHAPE_CLASSES)))
        size = rng.uniform(_CLASS_MIN_SIZES[label] + 1, 16)
        pitch = size * rng.uniform(0.9, 1.15)
        rows, columns = (int(n) for n in rng.integers(5, 9, size=2))
        height, width = self.owner.shape
        top = rng.uniform(size, height - (rows + 1) * pitch)
        left = rng.uniform(size, width - (columns + 1) * pitch)
        under = self.image[int(top) :, int(left) :][: int(rows * pitch), : int(columns * pitch)]
        colors = choose_colors(under, rng)
        for row, column in np.ndindex(rows, columns):
            if rng.random() < 0.2:
                continue  # gaps make the group's outline uneven
            y = top + pitch * (row + rng.uniform(-0.3, 0.3))
            x = left + pitch * (column + row % 2 / 2 + rng.uniform(-0.3, 0.3))
            sprite = build_sprite(SHAPE_CLASSES[label], size * rng.uniform(0.9, 1.1), rng)
            shade = np.float32(rng.uniform(0.85, 1.15))
            self._stamp(sprite, (int(y), int(x)), np.clip(colors * shade, 0, 255))
        area = np.count_nonzero(self.owner == len(self.classes))
        self._finish_object(label, np.zeros((0, 2)), 0.85 * area, is_crowd=True)

    def _find_place(
        self, mask: NDArray[np.bool_], is_small: bool, rng: Generator
    ) -> tuple[int, int] | None:
        """Return a (top, left) at which enough of all objects is visible; None if none is found."""
        may_overlap = rng.random() < 0.35
        visible = self._count_owners(self.owner)
        outside = 0.0 if is_small else 0.15  # largest share of a side that is outside of the image
        for _ in range(24):
            top, left = (
                int(rng.uniform(-outside * side, limit - (1 - outside) * side))
                for side, limit in zip(mask.shape, self.owner.shape, strict=True)
            )
            target, source = _intersect((top, left), mask.shape, self.owner.shape)
            hidden = self._count_owners(self.owner[target][mask[source]])
            is_kept = (hidden == 0) | (visible - hidden >= self.least_areas)
            is_inside = mask[source].sum() >= 0.75 * mask.sum()
            if is_inside and is_kept.all() and (may_overlap or not hidden.any()):
                return top, left
        return None

    def _count_owners(self, owner: NDArray[np.int16]) -> NDArray[np.intp]:
        """Count the pixels of each object (M,) in a part of the owner map."""
        return np.bincount(owner.ravel() + 1, minlength=len(self.classes) + 1)[1:]

    def _stamp(self, sprite: Sprite, corner: tuple[int, int], colors: Floats) -> None:
        """Paint a sprite in two colors (2, 3), as part of the object that is finished next."""
        target, source = _intersect(corner, sprite.coverage.shape, self.owner.shape)
        layers = sprite.coverage, sprite.rim, sprite.texture
        coverage, rim, texture = (layer[source][..., None] for layer in layers)
        paint = colors[0] + texture * (colors[1] - colors[0])
        paint *= 1 - np.float32(0.55) * rim
        self.image[target] += coverage * (paint - self.image[target])
        self.owner[target][coverage[..., 0] >= 0.5] = len(self.classes)

    def _finish_object(
        self, label: int, keypoints: Doubles, min_area: float, *, is_crowd: bool = False
    ) -> None:
        """Add the object that was painted since the last call."""
        self.classes.append(label)
        self.is_crowd.append(is_crowd)
        self.keypoints.append(keypoints)
        self.least_areas.append(min_area)


def _intersect(
    corner: tuple[int, int], shape: tuple[int, ...], image_shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """
    Intersect an image with a crop at a corner (top, left), which may be outside of the image.

    Returns:
        tuple: The slices (rows, columns) of the common part in the image and in the crop.
    """
    (y, x), (h, w), (height, width) = corner, shape, image_shape
    (y1, y2), (x1, x2) = (max(y, 0), min(y + h, height)), (max(x, 0), min(x + w, width))
    return (slice(y1, y2), slice(x1, x2)), (slice(y1 - y, y2 - y), slice(x1 - x, x2 - x))
