"""The names and the skeleton of keypoints in the categories of annotation files."""

import pytest
from input_errors import input_error

from fcos_d2.data.coco.keypoint_layout import KeypointLayout, read_layout

NAMES = ["nose", "left_eye", "right_eye"]


def category(name="cat", **fields):
    return {"id": 1, "name": name, "keypoints": NAMES, **fields}


def test_the_skeleton_counts_from_1():
    layout = read_layout([category(skeleton=[[1, 2], [3, 1]])])
    assert layout == KeypointLayout(tuple(NAMES), ((0, 1), (2, 0)))


@pytest.mark.parametrize("none", [{}, {"keypoints": []}, {"keypoints": None, "skeleton": [[1, 2]]}])
def test_categories_may_have_no_keypoints(none):
    without = {"id": 2, "name": "dog", **none}
    assert read_layout([without]) == KeypointLayout()
    assert read_layout([without, category(), category("cow")]).names == tuple(NAMES)


def test_categories_with_different_names_are_an_error():
    with input_error("'cat'", "'cow'", "tail"):
        read_layout([category(), category("cow", keypoints=["tail"])])


@pytest.mark.parametrize("names", ["nose", ["nose", "nose"], ["nose", ""], ["nose", 1], {"a": 1}])
def test_names_are_different_texts(names):
    with input_error("'cat'", repr(names)):
        read_layout([category(keypoints=names)])


@pytest.mark.parametrize("pair", [[0, 1], [1, 4], [1], [1, 2, 3], ["1", "2"], [1, True], "ab", 7])
def test_the_skeleton_has_pairs_of_numbers_of_keypoints(pair):
    with input_error("'cat'", repr(pair), "from 1 to 3"):
        read_layout([category(skeleton=[[1, 2], pair])])
