"""The scenes that are drawn: reproducible, varied, and with visible objects."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from fcos_d2.data.shapes import paint as shapes_paint
from fcos_d2.data.shapes import scene as shapes
from fcos_d2.data.shapes.annotation import annotate_scene
from fcos_d2.data.shapes.scene import draw_scene
from fcos_d2.data.shapes.spec import (
    ANNOTATION_VERSION,
    RECIPE_VERSION,
    SHAPE_CLASSES,
    SIZE_RANGE,
)


@pytest.mark.parametrize(
    ("split", "expected", "expected_keypoints"),
    [
        ("train", "45bbe4ef9a4f7db8", "f9551ee4a03b6c53"),
        ("val", "e5fd8d4f8928b9f3", "960b18cbf3b70748"),
    ],
)
def test_the_first_scenes_have_the_known_hashes(split, expected, expected_keypoints):
    # After an intended change, increase RECIPE_VERSION and replace the hashes. If only annotations
    # change, increase ANNOTATION_VERSION.
    digest = hashlib.sha256(str(RECIPE_VERSION).encode())
    keypoint_digest = hashlib.sha256(str(ANNOTATION_VERSION).encode())
    for index in range(20):
        scene = draw_scene(split, index)
        annotations = annotate_scene(scene)
        keypoints = [(x.pop("keypoints"), x.pop("num_keypoints")) for x in annotations]
        digest.update(scene.image.tobytes())
        digest.update(json.dumps(annotations).encode())
        keypoint_digest.update(json.dumps(keypoints).encode())
    assert digest.hexdigest()[:16] == expected
    assert keypoint_digest.hexdigest()[:16] == expected_keypoints


def test_a_scene_does_not_depend_on_what_was_drawn_before():
    first = draw_scene("val", 3)
    draw_scene("train", 3)
    second = draw_scene("val", 3)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.owner, second.owner)


def test_train_and_val_have_no_image_in_common(scenes):
    digests = [hashlib.sha256(scene.image).digest() for scene, _ in scenes["train"] + scenes["val"]]
    assert len(set(digests)) == len(digests) == 300


def test_images_are_rgb_bytes_of_192_to_256_pixels_a_side(scenes):
    for scene, _ in scenes["train"] + scenes["val"]:
        assert scene.image.dtype == np.uint8
        assert scene.image.shape == (*scene.owner.shape, 3)
        assert 192 <= min(scene.owner.shape) <= max(scene.owner.shape) <= 256
    assert len({scene.owner.shape for scene, _ in scenes["train"] + scenes["val"]}) > 6


def test_one_scene_in_25_is_empty_and_one_in_25_has_a_crowd(scenes):
    for pairs in scenes.values():
        assert sum(not scene.classes for scene, _ in pairs) == 150 / 25
        assert sum(any(scene.is_crowd) for scene, _ in pairs) == 150 / 25
        assert max(sum(scene.is_crowd) for scene, _ in pairs) == 1
        assert 150 / 25 <= sum(len(scene.classes) > 20 for scene, _ in pairs) <= 2 * 150 / 25


def test_every_class_is_common_in_both_splits(scenes):
    for pairs in scenes.values():
        counts = Counter(label for scene, _ in pairs for label in scene.classes)
        assert set(counts) == set(range(len(SHAPE_CLASSES)))
        # The share of each of the six classes is about a sixth.
        assert min(counts.values()) > 0.1 * sum(counts.values())


def test_sizes_are_spread_over_the_stated_range(scenes):
    objects = [a for _, annotations in scenes["train"] + scenes["val"] for a in annotations]
    sides = np.array([max(a["bbox"][2:]) for a in objects if not a["iscrowd"]])
    # Edges inside pixels change a side by up to a pixel, and 15 % of an object may be hidden.
    assert sides.min() >= 0.85 * SIZE_RANGE[0] - 1
    assert sides.max() <= SIZE_RANGE[1] + 1
    tiny, small, large = np.histogram(sides, [0, 16.3, 44.2, 200])[0] / len(sides)
    assert tiny > 0.04
    assert small > 0.25
    assert large > 0.4
    # By COCO's definition, 41 % of the objects in COCO are small.
    areas = np.array([a["area"] for a in objects if not a["iscrowd"]])
    assert 0.36 < (areas < 32**2).mean() < 0.46


def test_enough_of_each_object_is_visible():
    canvas = shapes._Canvas(np.full((200, 300, 3), 128, np.float32))
    canvas.draw_objects(60, 120.0, np.random.Generator(np.random.PCG64(5)))
    visible = np.bincount(canvas.owner.ravel() + 1)[1:]
    assert len(visible) == len(canvas.classes) > 20
    assert np.all(visible >= canvas.least_areas)
    # Some objects are partly hidden, so that the line above is not trivial.
    assert np.any(visible < 1.5 * np.array(canvas.least_areas))


def test_objects_differ_in_color_from_what_they_cover():
    under = np.full((8, 8, 3), (70, 120, 200), np.float32)
    for seed in range(50):
        first = shapes_paint.choose_colors(under, np.random.Generator(np.random.PCG64(seed)))[0]
        distance = np.sqrt(((first - under[0, 0]) ** 2 * np.array([2, 4, 3]) / 9).sum())
        assert distance >= shapes_paint.MIN_CONTRAST
