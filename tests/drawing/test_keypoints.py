"""Keypoints and skeletons: what is drawn of them."""

import numpy as np
from detectron2.data.datasets.builtin_meta import (
    COCO_PERSON_KEYPOINT_NAMES,
    KEYPOINT_CONNECTION_RULES,
)
from input_errors import input_error

from fcos_d2.drawing.keypoints import (
    Bone,
    Skeleton,
    arrange_skeletons,
    build_skeleton,
    scores_to_visibility,
)

NAMES = ["head", "left", "right"]
RULES = [("head", "left", (255, 0, 0)), ["head", "right", [0, 51, 0]]]
SKELETON = Skeleton(3, [Bone(0, 1, (1.0, 0.0, 0.0)), Bone(0, 2, (0.0, 0.2, 0.0))])
POINTS = np.array([[1.0, 2.0, 2.0], [3.0, 4.0, 1.0], [5.0, 6.0, 0.0]])
BOX = np.array([0.0, 0.0, 10.0, 5.0])


def test_a_skeleton_is_built_from_the_metadata_of_detectron2():
    assert build_skeleton(NAMES, RULES) == SKELETON
    person = build_skeleton(COCO_PERSON_KEYPOINT_NAMES, KEYPOINT_CONNECTION_RULES)
    assert person.num_keypoints == 17
    assert person.bones[2].end == 0  # left eye and nose
    assert build_skeleton([], []) == Skeleton(0, [])


def test_an_unknown_name_in_a_skeleton_is_an_error_with_the_most_similar_name():
    with input_error("'head'", "'lift'", "'left'", value="lift"):
        build_skeleton(NAMES, [("head", "lift", (0, 0, 0))])


def test_predicted_keypoints_with_a_low_score_are_not_drawn():
    predicted = np.array(
        [[[1.0, 2.0, 0.01], [3.0, 4.0, 0.009]], [[5.0, 6.0, 9.0], [7.0, 8.0, 0.0]]]
    )
    assert scores_to_visibility(predicted).tolist() == [
        [[1, 2, 2], [3, 4, 0]],
        [[5, 6, 2], [7, 8, 0]],
    ]
    assert scores_to_visibility(np.zeros((0, 5, 3))).shape == (0, 5, 3)


def test_lines_need_both_ends_and_hidden_dots_are_hollow():
    shapes = arrange_skeletons([POINTS], BOX[None], [(0.5, 0.6, 0.7)], SKELETON, 10)
    assert shapes.lines.tolist() == [[[1, 2], [3, 4]]]
    assert shapes.line_colors.tolist() == [[1, 0, 0]]
    assert shapes.dots.tolist() == [[1, 2], [3, 4]]
    assert shapes.dot_colors.tolist() == [[0.5, 0.6, 0.7]] * 2
    assert shapes.is_hollow.tolist() == [False, True]
    assert shapes.dot_scales.tolist() == [1, 1]


def test_the_first_object_is_drawn_last_and_one_without_keypoints_not_at_all():
    others = POINTS + np.array([100, 0, 0])
    boxes = np.stack([BOX, BOX, 0.75 * BOX])
    colors = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    shapes = arrange_skeletons([POINTS, None, others], boxes, colors, SKELETON, 10)
    assert shapes.dots[:, 0].tolist() == [101, 103, 1, 3]
    assert shapes.dot_colors[:, 2].tolist() == [1, 1, 0, 0]
    assert shapes.dot_scales.tolist() == [0.75, 0.75, 1, 1]
    assert shapes.line_scales.tolist() == [0.75, 1]


def test_no_keypoints_have_no_shapes():
    empty = np.zeros((0, 4))
    for shapes in (
        arrange_skeletons([], empty, [], SKELETON, 10),
        arrange_skeletons([np.zeros((0, 3))], BOX[None], [(1, 0, 0)], SKELETON, 10),
    ):
        assert shapes.lines.shape == (0, 2, 2)
        assert shapes.dots.shape == (0, 2)
        assert shapes.is_hollow.dtype == bool
