"""The annotations of scenes: box, mask and area describe the same pixels."""

from collections import Counter

import numpy as np
import pycocotools.mask as mask_util
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fcos_d2.data.shapes import scene as shapes
from fcos_d2.data.shapes.annotation import annotate_scene, find_polygons


def decode(annotation, shape):
    """Return the mask of an annotation's segmentation, decoded by pycocotools."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, *shape))
    return mask_util.decode(segmentation).astype(bool)


def test_segmentation_box_and_area_describe_the_same_pixels(scenes):
    checked = Counter()
    for scene, annotations in scenes["train"] + scenes["val"]:
        assert len(annotations) == len(scene.classes)
        for index, annotation in enumerate(annotations):
            mask = scene.owner == index
            assert np.array_equal(decode(annotation, mask.shape), mask)
            ys, xs = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            # The last pixel is xs.max(); its right edge is one more.
            assert (x, y) == (xs.min(), ys.min())
            assert (x + width, y + height) == (xs.max() + 1, ys.max() + 1)
            assert annotation["area"] == len(xs) > 0
            assert annotation["category_id"] == scene.classes[index] + 1
            checked[annotation["iscrowd"]] += 1
    assert checked[0] > 1500
    assert checked[1] == 12


def test_box_of_columns_3_to_5_is_3_wide():
    owner = np.full((10, 12), -1, np.int16)
    owner[2:9, 3:6] = 0
    scene = shapes.Scene(np.zeros((10, 12, 3), np.uint8), owner, [1], [False], [np.zeros((0, 2))])
    (annotation,) = annotate_scene(scene)
    assert annotation["bbox"] == [3.0, 2.0, 3.0, 7.0]
    assert annotation["area"] == 21.0
    (polygon,) = annotation["segmentation"]
    corners = {(3.0, 2.0), (6.0, 2.0), (6.0, 9.0), (3.0, 9.0)}
    assert set(zip(polygon[::2], polygon[1::2], strict=True)) == corners


def test_visibility_by_hand():
    # Object 0 is covered by object 1 on the right side; object 1 is on top.
    owner = np.zeros((4, 6), np.int16)
    owner[:, 3:] = 1
    points = np.array([[0.5, 0.5], [3.0, 2.5], [2.9, 3.9], [6.0, 1.0], [5.9, -0.1]])
    scene = shapes.Scene(
        np.zeros((4, 6, 3), np.uint8), owner, [0, 0], [False] * 2, [points, points[:, ::-1]]
    )
    first, second = annotate_scene(scene)
    # COCO's keypoints count from the center of the first pixel.
    expected = [[0, 0, 2], [2.5, 2, 1], [2.4, 3.4, 2], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(np.reshape(first["keypoints"], (5, 3)), expected)
    assert first["num_keypoints"] == 3
    # The pixel (0, 0) is of object 0, which is below: it doesn't cover anything.
    assert second["keypoints"][:3] == [0, 0, 2]


def test_all_visibilities_occur_and_crowds_have_no_keypoints(scenes):
    counts = Counter()
    for _, annotations in scenes["train"] + scenes["val"]:
        for annotation in annotations:
            points = np.reshape(annotation["keypoints"], (5, 3))
            assert annotation["num_keypoints"] == (points[:, 2] > 0).sum()
            assert not points[points[:, 2] == 0].any()
            if annotation["iscrowd"]:
                assert not points.any()
            else:
                counts.update(points[:, 2].astype(int).tolist())
    assert counts[2] > 0.8 * counts.total()
    assert counts[1] > 0.02 * counts.total()
    assert counts[0] > 0.005 * counts.total()


def test_numbers_are_floats_because_transforms_scale_them_in_place(scenes):
    for _, annotations in scenes["train"] + scenes["val"]:
        for annotation in annotations:
            numbers = [*annotation["bbox"], annotation["area"], *annotation["keypoints"]]
            if not annotation["iscrowd"]:
                numbers += [n for polygon in annotation["segmentation"] for n in polygon]
            assert {type(n) for n in numbers} == {float}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_polygons_cover_any_mask_exactly(mask):
    polygons = find_polygons(mask)
    assert all(len(polygon) >= 4 for polygon in polygons)
    decoded = np.zeros_like(mask)
    for polygon in polygons:
        rles = mask_util.frPyObjects([polygon.ravel().astype(float).tolist()], *mask.shape)
        decoded |= mask_util.decode(rles)[..., 0].astype(bool)
    assert np.array_equal(decoded, mask)
