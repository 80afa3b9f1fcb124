"""Keypoints: which of them are drawn, and the lines between them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, nearest
from .colors import Color

__all__ = [
    "Bone",
    "Skeleton",
    "SkeletonShapes",
    "arrange_skeletons",
    "build_skeleton",
    "scores_to_visibility",
]

# The score of a keypoint is the share of its best cell in a heatmap of, usually, 56 x 56 cells. For
# a bell curve with a standard deviation of 7 % of the box, that is 0.01; for a heatmap without a
# maximum, it is 0.0003. detectron2's Visualizer draws from 0.05 on. For a Keypoint R-CNN of the
# drawn shapes (1,000 iterations, keypoint AP 74), this would hide 15 % of the keypoints, and 88 %
# of those of objects below 20 pixels, although 63 % of the hidden ones are within a tenth of the
# object's size. 0.01 hides 1 %, and 68 % of them are further away.
_MIN_SCORE = 0.01
_MIN_SCALE = 0.6  # of the dots and lines on small objects, which would hide them


class Bone(NamedTuple):
    """
    A line between two keypoints of an object.

    Attributes:
        start (int): The index of a keypoint.
        end (int): The index of another one.
        color (Color): RGB from 0 to 1.
    """

    start: int
    end: int
    color: Color


class Skeleton(NamedTuple):
    """
    The lines between the keypoints of an object.

    Attributes:
        num_keypoints (int): P, the number of keypoints of an object that has this skeleton.
        bones (list[Bone]): The lines.
    """

    num_keypoints: int = 0
    bones: Sequence[Bone] = ()


class SkeletonShapes(NamedTuple):
    """
    What is drawn of the keypoints of all objects, in the order in which it is drawn.

    Attributes:
        lines (array): (S, 2, 2) positions x and y of the ends of S lines.
        line_colors (array): (S, 3) RGB from 0 to 1.
        line_scales (array): (S,) their widths; 1 is the full one.
        dots (array): (D, 2) positions x and y of D keypoints.
        dot_colors (array): (D, 3) RGB from 0 to 1.
        dot_scales (array): (D,) their diameters; 1 is the full one.
        is_hollow (array): (D,) bool, whether only the outline of the dot is drawn.
    """

    lines: NDArray[np.float64]
    line_colors: NDArray[np.float64]
    line_scales: NDArray[np.float64]
    dots: NDArray[np.float64]
    dot_colors: NDArray[np.float64]
    dot_scales: NDArray[np.float64]
    is_hollow: NDArray[np.bool_]


def build_skeleton(
    names: Sequence[str], rules: Iterable[tuple[str, str, Sequence[int]]]
) -> Skeleton:
    """
    Build a skeleton from the metadata of a dataset in detectron2's form.

    Args:
        names (list[str]): ``keypoint_names``, the name of each keypoint.
        rules (list[tuple]): ``keypoint_connection_rules``, each with two names and a color RGB from
            0 to 255.

    Raises:
        InputError: If a rule has a name that is not in the list.
    """
    indices = {name: index for index, name in enumerate(names)}
    bones = []
    for first, second, rgb in rules:
        for name in (first, second):
            if name not in indices:
                raise InputError(
                    f"The skeleton connects {first!r} with {second!r}, but no keypoint has the "
                    f"name {name!r}. {nearest(name, names)}",
                    value=name,
                )
        red, green, blue = (x / 255 for x in rgb)
        bones.append(Bone(indices[first], indices[second], (red, green, blue)))
    return Skeleton(len(names), bones)


def scores_to_visibility(keypoints: NDArray[Any]) -> NDArray[Any]:
    """
    Return predicted keypoints (..., 3) with visibility instead of scores.

    It is 2, or 0 if the score is so low that the keypoint was not found.
    """
    visibility = np.where(keypoints[..., 2:] >= _MIN_SCORE, 2, 0)
    return np.concatenate([keypoints[..., :2], visibility], axis=-1)


def arrange_skeletons(
    keypoints: Sequence[NDArray[Any] | None],
    boxes: NDArray[Any],
    colors: Sequence[Color],
    skeleton: Skeleton,
    full_size: float,
) -> SkeletonShapes:
    """
    Collect the dots and lines of the keypoints of M objects.

    The first objects are drawn last. A line is left out if one of its ends is not drawn. An object
    with another number of keypoints than the skeleton has no lines.

    Args:
        keypoints (list[array | None]): M arrays (P, 3), see ``DrawnObjects``.
        boxes (array): (M, 4) xyxy.
        colors (list[Color]): M colors of the dots.
        skeleton (Skeleton): The lines between the keypoints of an object.
        full_size (float): Sides of boxes from which on dots and lines have their full size. On
            smaller objects, which they would hide, they are smaller.
    """
    sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    scales = np.clip(sizes / full_size, _MIN_SCALE, 1)
    shapes = [
        _arrange_one(points, color, skeleton, scale)
        for points, color, scale in zip(keypoints, colors, scales, strict=True)
        if points is not None
    ]
    nothing = _arrange_one(np.zeros((0, 3)), (0, 0, 0), Skeleton(), 1)
    return SkeletonShapes(
        *(np.concatenate(parts) for parts in zip(nothing, *reversed(shapes), strict=True))
    )


def _arrange_one(
    points: NDArray[Any], color: Color, skeleton: Skeleton, scale: float
) -> SkeletonShapes:
    """Arrange the dots and lines of the keypoints (P, 3) of one object."""
    is_drawn = points[:, 2] > 0
    bones = skeleton.bones if len(points) == skeleton.num_keypoints else ()
    bones = [x for x in bones if is_drawn[x.start] and is_drawn[x.end]]
    ends = np.array([[x.start, x.end] for x in bones], dtype=np.intp).reshape(-1, 2)
    dots = points[is_drawn]
    return SkeletonShapes(
        points[ends, :2],
        np.array([x.color for x in bones]).reshape(-1, 3),
        np.full(len(bones), scale),
        dots[:, :2],
        np.tile(color, (len(dots), 1)),
        np.full(len(dots), scale),
        dots[:, 2] == 1,
    )
