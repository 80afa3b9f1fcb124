"""The keypoints of drawn objects: they turn and scale with the outline, and can be mirrored."""

import math

import numpy as np
import pytest

from fcos_d2.data.shapes import paint
from fcos_d2.data.shapes.spec import KEYPOINT_NAMES, SHAPE_CLASSES

TURN = 0.3  # radians, clockwise in the image


class Mirrored(np.random.Generator):
    """A source of the same numbers, but of the negative rotation."""

    def uniform(self, low=0.0, high=1.0, size=None):
        """Return numbers that are mirrored if the interval is symmetric."""
        numbers = super().uniform(low, high, size)
        return -numbers if low == -high else numbers


class Turned(np.random.Generator):
    """A source of random numbers with a known rotation."""

    def uniform(self, low=0.0, high=1.0, size=None):
        """Return the rotation if the interval is that of rotations."""
        return TURN / 0.35 if low == -1 else super().uniform(low, high, size)


def build(name, generator, size=60.0):
    """Return the outline and the keypoints of an object."""
    return paint._build_outline(name, size, generator(np.random.PCG64(7)))


@pytest.mark.parametrize("name", SHAPE_CLASSES)
def test_a_mirrored_object_has_the_mirrored_keypoints_with_swapped_names(name):
    outlines, keypoints = build(name, np.random.Generator)
    mirrored_outlines, mirrored = build(name, Mirrored)
    swap = {"left": "right", "right": "left"}
    names = ["_".join(swap.get(x, x) for x in n.split("_")) for n in KEYPOINT_NAMES]
    order = [names.index(x) for x in KEYPOINT_NAMES]
    np.testing.assert_allclose(mirrored, keypoints[order] * (-1, 1), atol=1e-9)
    for outline, other in zip(outlines, mirrored_outlines, strict=True):
        # The corners may be listed in another order.
        corners, others = (np.round(x, 6) + 0.0 for x in (outline * (-1, 1), other))
        if name not in ("circle", "ring"):  # those have 48 corners, which nobody sees
            assert {*map(tuple, corners)} == {*map(tuple, others)}


def frame_of(name):
    """Return the keypoints in the object's own frame: x is right, y is down."""
    _, keypoints = build(name, Turned)
    turn = 0.0 if name in ("circle", "ring") else TURN
    return dict(zip(KEYPOINT_NAMES, paint._turn(keypoints, -turn), strict=True))


@pytest.mark.parametrize("name", SHAPE_CLASSES)
def test_keypoints_are_where_their_names_say(name):
    points = frame_of(name)
    assert points["top"][0] == pytest.approx(0)
    assert points["top"][1] == pytest.approx(min(y for _, y in points.values()))
    for point, (x, y) in points.items():
        assert ("right" in point) == (x > 1)
        assert ("left" in point) == (x < -1)
        assert ("upper" in point or point == "top") == (y < -1)
        assert ("lower" in point) == (y > 1)


def test_the_frame_turns_with_every_shape_that_shows_it():
    for name in SHAPE_CLASSES:
        top = dict(zip(KEYPOINT_NAMES, build(name, Turned)[1], strict=True))["top"]
        angle = math.atan2(top[0], -top[1])
        assert angle == pytest.approx(0 if name in ("circle", "ring") else TURN)


@pytest.mark.parametrize("name", SHAPE_CLASSES)
@pytest.mark.parametrize("size", [8.0, 30.0, 120.0])
def test_keypoints_are_on_the_object(name, size):
    for seed in range(20):
        sprite = paint.build_sprite(name, size, np.random.Generator(np.random.PCG64(seed)))
        for x, y in sprite.keypoints:
            # At the tip of a small star, the object covers only a part of the pixel.
            assert sprite.coverage[int(y), int(x)] >= (0.99 if size == 120 else 0.1)
