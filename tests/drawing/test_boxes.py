"""Boxes with labels: their places, their colors, and literal texts."""

import numpy as np
import pytest

from fcos_d2.drawing import draw_boxes
from fcos_d2.drawing.colors import class_color

BLACK = np.zeros((480, 640, 3), dtype=np.uint8)
BOX = np.array([[100.0, 100.0, 300.0, 200.0]])


def is_color(picture, k):
    """Return which pixels have exactly the color of a class."""
    return (picture == np.round(np.multiply(class_color(k), 255))).all(axis=2)


def label_width(label):
    """Return the width in pixels of a label above a box."""
    picture = draw_boxes(BLACK, BOX, [0], [label])
    columns = np.nonzero(is_color(picture, 0)[:96].any(axis=0))[0]
    return columns.max() + 1 - columns.min()


def test_small_images_and_their_boxes_are_enlarged():
    image = np.zeros((64, 128, 3), dtype=np.uint8)
    picture = draw_boxes(image, np.array([[32.0, 16.0, 96.0, 48.0]]), [0], [""])
    assert picture.shape == (320, 640, 3)
    rows, columns = np.nonzero(picture.sum(axis=2) > 100)
    # The box is enlarged by 5; the tolerance is the width of its lines.
    assert abs(columns.min() - 160) <= 5
    assert abs(columns.max() - 480) <= 5
    assert abs(rows.min() - 80) <= 5
    assert abs(rows.max() - 240) <= 5


def test_each_class_has_its_color_and_a_crowd_is_gray():
    shown = [draw_boxes(BLACK, BOX, [k], [""]).reshape(-1, 3).max(axis=0) for k in (0, 1, 2, -1)]
    assert len({tuple(color) for color in shown}) == 4
    assert len(set(shown[3].tolist())) == 1


def test_an_image_without_boxes_is_unchanged():
    image = np.random.default_rng(0).integers(0, 255, BLACK.shape, dtype=np.uint8)
    assert (draw_boxes(image, np.zeros((0, 4)), [], []) == image).all()


@pytest.mark.parametrize("label", ["$", "a$b", "\\", "\\frac", "$\\frac$", "^", "a_b^c", "{", "%"])
def test_every_text_can_be_drawn(label):
    assert is_color(draw_boxes(BLACK, BOX, [0], [label]), 0)[:96].any()


def test_formulas_and_escapes_are_drawn_literally():
    assert label_width("$x_1$") > label_width("x_1") > label_width("x1")
    assert label_width("a\\$") > label_width("a$")
    assert label_width("\\alpha") > label_width("alpha")


@pytest.mark.parametrize("other", [BOX[0], BOX[0] + [2, -3, 1, 2], [150, 95, 250, 150]])
def test_the_label_of_the_first_box_is_not_changed_by_another_one(other):
    alone = draw_boxes(BLACK, BOX, [0], ["king 66%"])
    both = draw_boxes(BLACK, np.array([BOX[0], other]), [0, 1], ["king 66%", "jack 61%"])
    in_label = np.zeros(BLACK.shape[:2], dtype=bool)
    rows, columns = np.nonzero(is_color(alone, 0)[:96])
    in_label[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    assert (both[in_label] == alone[in_label]).all()
    # All of the other label is visible too: its color covers as much as in a picture of its own.
    jack = draw_boxes(BLACK, BOX, [1], ["jack 61%"])
    assert is_color(both, 1)[~in_label].sum() >= is_color(jack, 1)[:96].sum()


def test_the_first_of_equal_boxes_is_drawn_over_the_others():
    picture = draw_boxes(BLACK, np.concatenate([BOX, BOX]), [0, 1], ["", ""])
    assert is_color(picture, 0).any()
    assert not is_color(picture, 1).any()


def test_the_first_label_is_drawn_over_those_that_find_no_free_place():
    image = np.zeros((40, 640, 3), dtype=np.uint8)
    boxes = np.tile([[0.0, 0.0, 60.0, 40.0]], (6, 1))
    bare = draw_boxes(image, boxes[:1], [0], [""])
    alone = draw_boxes(image, boxes[:1], [0], ["a long label"])
    picture = draw_boxes(image, boxes, [0, 1, 1, 1, 1, 1], ["a long label"] * 6)
    in_label = is_color(alone, 0) & ~is_color(bare, 0)
    assert in_label.any()
    assert is_color(picture, 0)[in_label].all()


def test_labels_do_not_cover_the_title():
    box = np.array([[0.0, 2.0, 200.0, 100.0]])
    title = draw_boxes(BLACK, np.zeros((0, 4)), [], [], title="ground truth")
    picture = draw_boxes(BLACK, box, [0], ["cat"], title="ground truth")
    is_white = (title > 200).all(axis=2)
    assert is_white.sum() > 50
    assert (picture[is_white] == title[is_white]).all()
