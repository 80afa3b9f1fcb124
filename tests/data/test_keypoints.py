"""Keypoints in metadata: the left/right pairs that names tell, and connections."""

import pytest
from detectron2.data import MetadataCatalog

from fcos_d2.data.keypoints import (
    find_left_right_pairs,
    find_single_sides,
    keypoint_metadata,
    num_keypoints_of,
)

PAIRS = [
    (["nose", "left_eye", "right_eye"], [("left_eye", "right_eye")]),
    (["RightEye", "LeftEye"], [("LeftEye", "RightEye")]),
    (["LEye", "REye"], [("LEye", "REye")]),
    (["eye_l", "eye_r"], [("eye_l", "eye_r")]),
    (["eye.L", "eye.R"], [("eye.L", "eye.R")]),
    (["eyeL", "eyeR"], [("eyeL", "eyeR")]),
    (["Left Eye", "Right Eye"], [("Left Eye", "Right Eye")]),
    (["LEFT-EYE", "RIGHT-EYE"], [("LEFT-EYE", "RIGHT-EYE")]),
    (["lefteye", "righteye"], [("lefteye", "righteye")]),
    (["R1", "R2", "L1", "L2"], [("L1", "R1"), ("L2", "R2")]),
    (["l", "r"], [("l", "r")]),
    # All sides of a name are swapped.
    (
        ["left_eye_left", "left_eye_right", "right_eye_left", "right_eye_right"],
        [("left_eye_left", "right_eye_right"), ("left_eye_right", "right_eye_left")],
    ),
    # No pairs:
    (["top", "bottom"], []),
    (["bright", "copyright", "cleft", "upright"], []),
    (["lear", "rear"], []),
    (["left_eye", "right_ear"], []),
    (["left_eye", "l_eye", "right_eye"], []),  # which one is the left one?
    (list("jklmnopqrs"), []),  # an enumeration
    ([f"p_{x}1" for x in "lmnopqr"], []),
    ([], []),
]


@pytest.mark.parametrize(("names", "expected"), PAIRS, ids=lambda x: ",".join(map(str, x))[:40])
def test_pairs_of_names(names, expected):
    assert find_left_right_pairs(names) == expected


def test_names_of_one_side_without_a_pair_are_found():
    names = ["left_eye", "rigth_eye", "LeftEar", "right_ear", "nose", "bright", "tail_l"]
    assert find_single_sides(names) == ["left_eye"]


def test_metadata_have_detectron2s_forms():
    metadata = keypoint_metadata(["nose", "l_eye", "r_eye"], [(0, 1), (0, 2)])
    assert metadata["keypoint_names"] == ("nose", "l_eye", "r_eye")
    assert metadata["keypoint_flip_map"] == (("l_eye", "r_eye"),)
    (*first, color), (*second, other) = metadata["keypoint_connection_rules"]
    assert (first, second) == (["nose", "l_eye"], ["nose", "r_eye"])
    assert color != other  # one is on the left, the other on the right
    for values in (color, other):
        assert {type(x) for x in values} == {int}
        assert 0 <= min(values) <= max(values) <= 255


def test_metadata_of_coco_are_those_of_detectron2():
    coco = MetadataCatalog.get("keypoints_coco_2017_train")
    metadata = keypoint_metadata(coco.keypoint_names)
    # detectron2 refuses to train on datasets with different values.
    assert metadata["keypoint_names"] == coco.keypoint_names
    assert metadata["keypoint_flip_map"] == coco.keypoint_flip_map


def test_the_number_of_keypoints_of_a_dataset():
    assert num_keypoints_of("shapes_train") == 5
    assert num_keypoints_of("keypoints_coco_2017_train") == 17
    assert num_keypoints_of("coco_2017_train") == 0
