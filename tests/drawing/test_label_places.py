"""Places of labels: near their boxes, in the picture, and next to each other."""

import numpy as np
import pytest
from torch import as_tensor
from torchvision.ops import box_iou

from fcos_d2.drawing.label_places import place_labels

PICTURE = (640, 480)
BOX = [100, 100, 300, 200]


def place(*boxes, size=(80, 20), **options):
    return place_labels([size] * len(boxes), np.array(boxes, float), PICTURE, **options)


def test_a_label_is_above_the_left_corner_of_its_box():
    assert place(BOX) == [(100, 80)]
    assert place_labels([], np.zeros((0, 4)), PICTURE) == []


def test_labels_of_equal_boxes_are_in_a_row_and_then_in_more_rows():
    # A row has room for labels that start at x = 100, 180 and 260.
    rows = [(x, y) for y in (80, 60) for x in (100, 180, 260)]
    assert place(*[BOX] * 6) == rows


def test_labels_of_a_narrow_box_are_stacked():
    narrow = [100, 100, 150, 400]
    # Above the box, in its upper part, and below it.
    expected = [(100, y) for y in (80, 60, 40, 100, 120, 140, 400, 420, 440)]
    assert place(*[narrow] * 9) == expected


def test_a_label_is_in_the_picture():
    assert place([100, 5, 300, 200]) == [(100, 5)]  # there is no room above the box
    assert place([-20, 100, 300, 200]) == [(0, 80)]
    assert place([600, 100, 640, 200]) == [(560, 80)]
    assert place([100, -50, 300, 600]) == [(100, 0)]  # no corner of the box is in the picture


@pytest.mark.parametrize("top", [0, -1.3, -30])
def test_the_label_of_a_box_at_the_upper_edge_is_at_the_edge(top):
    box = [100, top, 300, 200]
    assert place(box) == [(100, 0)]
    assert place(*[box] * 4) == [(100, 0), (180, 0), (260, 0), (100, 20)]


def test_a_label_does_not_hide_a_low_box():
    assert place([100, 0, 300, 39]) == [(100, 39)]
    assert place([100, 0, 300, 40]) == [(100, 0)]
    assert place([100, 460, 300, 480], taken=[(0, 300, 640, 460)]) == [(100, 460)]


def test_a_label_that_is_larger_than_the_picture_has_no_place():
    assert place(BOX, size=(640, 20)) == [(0, 80)]
    assert place(BOX, size=(641, 20)) == [None]
    assert place(BOX, size=(80, 480)) == [(100, 0)]
    assert place(BOX, BOX, size=(80, 481)) == [None, None]


def test_labels_of_a_box_that_reaches_out_of_the_picture_stay_in_it():
    outside = [500, 100, 900, 200]
    # A row has room for two labels that start at 560 or further left.
    assert place(*[outside] * 3, size=(60, 20)) == [(500, 80), (560, 80), (500, 60)]


def test_no_label_is_where_the_title_is():
    assert place([0, 30, 80, 90], taken=[(0, 0, 200, 25)]) == [(0, 30)]


def test_later_labels_do_not_move_the_first_ones():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 400, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 100, (60, 2))], axis=1)
    sizes = [(50, 14)] * 60
    places = place_labels(sizes, boxes, PICTURE)
    assert place_labels(sizes[:30], boxes[:30], PICTURE) == places[:30]


def test_labels_of_crowded_boxes_do_not_overlap():
    rng = np.random.default_rng(0)
    corners = rng.uniform(20, 400, (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(50, 100, (40, 2))], axis=1)
    places = place_labels([(50, 14)] * 40, boxes, PICTURE)
    areas = as_tensor(np.concatenate([places, places + np.array([50, 14])], axis=1))
    assert box_iou(areas, areas).fill_diagonal_(0).max() < 0.08  # one row of pixels of 14


def test_labels_without_a_free_place_are_left_out():
    # A row has room for 3 labels, of which the right one may be outside of the box; there are three
    # rows above the box, in it and below it.
    places = place(*[BOX] * 40)
    assert None not in places[:27]
    assert places[27:] == [None] * 13
    taken = [(0, 0, 640, 150), (0, 160, 640, 480)]  # ten rows of pixels are free
    assert place(BOX, taken=taken) == [None]


def test_a_label_without_a_place_takes_none_from_the_others():
    sizes = [(641, 20), (80, 20)]
    assert place_labels(sizes, np.array([BOX, BOX], float), PICTURE) == [None, (100, 80)]
