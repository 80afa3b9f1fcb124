"""Pictures of objects: places of labels, colors, literal texts, masks and keypoints."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from fcos_d2.drawing import Bone, DrawnObjects, Skeleton, draw_objects, pictures
from fcos_d2.drawing.colors import class_color

BLACK = np.zeros((480, 640, 3), dtype=np.uint8)
BOX = np.array([[100.0, 100.0, 300.0, 200.0]])


def draw(image, boxes, classes, labels, title="", **fields):
    """Draw objects, which may have masks and keypoints too."""
    return draw_objects(image, DrawnObjects(boxes, classes, labels, **fields), title)


def is_color(picture, k):
    """Return which pixels have exactly the color of a class."""
    return (picture == np.round(np.multiply(class_color(k), 255))).all(axis=2)


def label_width(label):
    """Return the width in pixels of a label above a box."""
    picture = draw(BLACK, BOX, [0], [label])
    columns = np.nonzero(is_color(picture, 0)[:96].any(axis=0))[0]
    return columns.max() + 1 - columns.min()


def test_small_images_and_their_boxes_are_enlarged():
    image = np.zeros((64, 128, 3), dtype=np.uint8)
    picture = draw(image, np.array([[32.0, 16.0, 96.0, 48.0]]), [0], [""])
    assert picture.shape == (320, 640, 3)
    rows, columns = np.nonzero(picture.sum(axis=2) > 100)
    # The box is enlarged by 5; the tolerance is the width of its lines.
    assert abs(columns.min() - 160) <= 5
    assert abs(columns.max() - 480) <= 5
    assert abs(rows.min() - 80) <= 5
    assert abs(rows.max() - 240) <= 5


def test_each_class_has_its_color_and_a_crowd_is_gray():
    shown = [draw(BLACK, BOX, [k], [""]).reshape(-1, 3).max(axis=0) for k in (0, 1, 2, -1)]
    assert len({tuple(color) for color in shown}) == 4
    assert len(set(shown[3].tolist())) == 1


def test_an_image_without_boxes_is_unchanged():
    image = np.random.default_rng(0).integers(0, 255, BLACK.shape, dtype=np.uint8)
    assert (draw(image, np.zeros((0, 4)), [], []) == image).all()


def test_an_image_without_boxes_costs_no_canvas(monkeypatch):
    monkeypatch.delattr(pictures, "Canvas")
    picture = draw(BLACK, np.zeros((0, 4)), [], [])
    assert picture is not BLACK
    assert (picture == BLACK).all()


def test_large_images_are_not_converted_by_matplotlib():
    image = np.full((2000, 2000, 3), 7, dtype=np.uint8)
    tracemalloc.start()
    try:
        picture = draw(image, BOX, [0], ["cat"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert is_color(picture, 0).any()
    assert (picture[300:] == 7).all()
    # Two copies have 3 bytes for each pixel each; matplotlib's imshow needs 100 more.
    assert peak < 12 * 2000 * 2000


@pytest.mark.parametrize("label", ["$", "a$b", "\\", "\\frac", "$\\frac$", "^", "a_b^c", "{", "%"])
def test_every_text_can_be_drawn(label):
    assert is_color(draw(BLACK, BOX, [0], [label]), 0)[:96].any()


def test_formulas_and_escapes_are_drawn_literally():
    assert label_width("$x_1$") > label_width("x_1") > label_width("x1")
    assert label_width("a\\$") > label_width("a$")
    assert label_width("\\alpha") > label_width("alpha")


@pytest.mark.parametrize("other", [BOX[0], BOX[0] + [2, -3, 1, 2], [150, 95, 250, 150]])
def test_the_label_of_the_first_box_is_not_changed_by_another_one(other):
    alone = draw(BLACK, BOX, [0], ["king 66%"])
    both = draw(BLACK, np.array([BOX[0], other]), [0, 1], ["king 66%", "jack 61%"])
    in_label = np.zeros(BLACK.shape[:2], dtype=bool)
    rows, columns = np.nonzero(is_color(alone, 0)[:96])
    in_label[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    assert (both[in_label] == alone[in_label]).all()
    # All of the other label is visible too: its color covers as much as in a picture of its own.
    jack = draw(BLACK, BOX, [1], ["jack 61%"])
    assert is_color(both, 1)[~in_label].sum() >= is_color(jack, 1)[:96].sum()


def test_the_first_of_equal_boxes_is_drawn_over_the_others():
    picture = draw(BLACK, np.concatenate([BOX, BOX]), [0, 1], ["", ""])
    assert is_color(picture, 0).any()
    assert not is_color(picture, 1).any()


def test_labels_without_a_free_place_are_left_out():
    image = np.zeros((40, 640, 3), dtype=np.uint8)
    boxes = np.tile([[0.0, 0.0, 60.0, 40.0]], (9, 1))
    bare = draw(image, boxes[:1], [0], [""])
    alone = draw(image, boxes[:1], [0], ["a long label"])
    picture = draw(image, boxes, [0] * 2 + [1] * 7, ["a long label"] * 9)
    in_label = is_color(alone, 0) & ~is_color(bare, 0)
    assert in_label.any()
    assert is_color(picture, 0)[in_label].all()
    # There is room for two labels in each of three rows.
    assert (picture == draw(image, boxes, [0] * 2 + [1] * 7, ["a long label"] * 6 + [""] * 3)).all()


@pytest.mark.parametrize("shape", [(640, 6, 3), (4, 640, 3), (640, 30, 3)])
def test_labels_and_titles_that_do_not_fit_into_the_picture_are_left_out(shape):
    image = np.zeros(shape, dtype=np.uint8)
    box = np.array([[0, 0, shape[1], shape[0]]])
    picture = draw(image, box, [0], ["king"], "ground truth", scores=[0.5])
    assert picture.any()
    assert (picture == draw(image, box, [0], [""])).all()


@pytest.mark.parametrize(("height", "has_title"), [(40, False), (60, True)])
def test_a_title_leaves_room_for_a_label(height, has_title):
    image = np.zeros((height, 640, 3), dtype=np.uint8)
    picture = draw(image, np.array([[0, 0, 90, 5]]), [0], ["cat"], "ground truth")
    assert (picture > 200).all(axis=2).any() == has_title
    # The label is below the title or the box.
    label = draw(BLACK, BOX, [0], ["cat"])[:96]
    assert is_color(picture, 0)[8:].sum() > 0.9 * is_color(label, 0).sum() > 100


def test_long_names_are_shortened_and_keep_their_scores():
    name = "a long name " * 10
    picture = draw(BLACK, BOX, [0], [name], scores=[0.87])
    columns = np.nonzero(is_color(picture, 0)[:96].any(axis=0))[0]
    assert columns.min() >= 96
    assert 180 < columns.max() - columns.min() < 640 / 3 + 10
    # The last letters are those of the score, at the same distance from the edge as in any label.
    short = draw(BLACK, BOX, [0], [""], scores=[0.87])
    ends = np.nonzero(is_color(short, 0)[:96].any(axis=0))[0].max() + 1
    end = columns.max() + 1
    assert (picture[80:96, end - 25 : end] == short[80:96, ends - 25 : ends]).mean() > 0.95


def test_labels_of_narrow_pictures_are_as_wide_as_the_picture():
    image = np.zeros((640, 100, 3), dtype=np.uint8)
    box = np.array([[30.0, 100.0, 60.0, 300.0]])
    picture = draw(image, box, [0], ["a name of a class"], scores=[0.5])
    columns = np.nonzero(is_color(picture, 0)[:96].any(axis=0))[0]
    assert columns.max() - columns.min() > 80


def test_labels_do_not_cover_the_title():
    box = np.array([[0.0, 2.0, 200.0, 100.0]])
    title = draw(BLACK, np.zeros((0, 4)), [], [], title="ground truth")
    picture = draw(BLACK, box, [0], ["cat"], title="ground truth")
    is_white = (title > 200).all(axis=2)
    assert is_white.sum() > 50
    assert (picture[is_white] == title[is_white]).all()


MASK = np.zeros(BLACK.shape[:2], dtype=bool)
MASK[150:260, 350:500] = True


def test_a_mask_is_drawn_although_it_is_outside_of_its_box():
    picture = draw(BLACK, BOX, [0], [""], masks=[MASK])
    assert (is_color(picture, 0)[150:260, 350:352]).all()  # the outline
    fill = np.round(0.4 * 255 * np.array(class_color(0)))
    assert (picture[152:258, 352:498] == fill).all()
    assert not picture[262:].any()
    # Thin lines are enough for the box of an object with a mask.
    box = draw(BLACK, BOX, [0], [""])
    assert 0 < picture[:, :320].any(axis=2).sum() < box[:, :320].any(axis=2).sum()


@pytest.mark.parametrize("mask", [None, np.zeros_like(MASK)], ids=["none", "empty"])
def test_an_object_without_a_mask_has_its_box(mask):
    picture = draw(BLACK, np.concatenate([BOX, BOX]), [0, 0], ["", ""], masks=[MASK, mask])
    expected = draw(BLACK, BOX, [0], [""], masks=[MASK])
    assert (picture[200:, 320:] == expected[200:, 320:]).all()
    assert is_color(picture, 0)[:, :320].any()


def test_the_masks_of_small_images_are_enlarged():
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    mask = np.zeros((48, 64), dtype=bool)
    mask[10:20, 30:45] = True
    picture = draw(image, np.array([[0.0, 0.0, 1.0, 1.0]]), [0], [""], masks=[mask])
    rows, columns = np.nonzero(picture[30:, 30:].any(axis=2))
    # They are enlarged by 10. The dark edge cannot be seen on black.
    assert (rows.min() + 30, rows.max() + 30) == (100, 199)
    assert (columns.min() + 30, columns.max() + 30) == (300, 449)


POINTS = np.array([[200.0, 300.0, 2.0], [400.0, 300.0, 1.0], [300.0, 400.0, 0.0]])
BONES = [Bone(0, 1, (0.0, 0.0, 1.0)), Bone(1, 2, (0.0, 1.0, 0.0))]
FAR_BOX = np.array([[0.0, 0.0, 600.0, 20.0]])  # keypoints of a large object have their full size


def draw_points(points, skeleton=None):
    """Draw the keypoints of an object whose box is in the first rows."""
    skeleton = Skeleton(3, BONES) if skeleton is None else skeleton
    return draw(BLACK, FAR_BOX, [0], [""], keypoints=[points], skeleton=skeleton)


def test_visible_keypoints_are_filled_hidden_ones_are_hollow_and_others_are_not_drawn():
    picture = draw_points(POINTS)
    assert is_color(picture, 0)[300, 200]
    assert not picture[300, 400].any()
    assert (picture[295:305, 390:410, 0] > 200).any()  # red, and not blue as the line
    assert not picture[350:].any()
    assert picture[298:303, 300, 2].max() > 150  # the blue line
    assert not picture[298:303, 300, :2].any()


@pytest.mark.parametrize("skeleton", [Skeleton(), Skeleton(2, BONES[:1]), Skeleton(3)])
def test_keypoints_without_a_skeleton_of_their_number_have_no_lines(skeleton):
    picture = draw_points(POINTS, skeleton)
    assert is_color(picture, 0)[300, 200]
    assert not picture[50:, 250:350].any()


@pytest.mark.parametrize("position", [-30.0, 1e6, -1e9, np.nan])
def test_keypoints_outside_of_the_image_do_not_move_the_others(position):
    points = POINTS.copy()
    points[2] = position, position, 2
    picture = draw_points(points, Skeleton(3, BONES[:1]))
    assert (picture == draw_points(POINTS)).all()


def test_keypoints_of_small_objects_are_smaller():
    areas = [
        draw(BLACK, np.array([[0, 0, w, 20.0]]), [0], [""], keypoints=[POINTS[:1]])[50:].any(axis=2)
        for w in (20, 100, 600)
    ]
    small, middle, large = (int(area.sum()) for area in areas)
    assert 10 < small < middle < large


def test_many_objects_and_objects_without_keypoints_are_drawn():
    count = 300
    boxes = np.tile(FAR_BOX, (count, 1))
    keypoints = [POINTS, *[None] * (count - 1)]
    objects = DrawnObjects(boxes, [0] * count, [""] * count, [MASK] * count, keypoints)
    picture = draw_objects(BLACK, objects)
    assert is_color(picture, 0)[300, 200]
    assert (is_color(picture, 0)[150:260, 350:352]).all()


@pytest.mark.parametrize("shape", [(480, 640, 3), (3000, 4000, 3)])
@pytest.mark.parametrize("side", [12, 16, 30])
def test_lines_do_not_hide_small_objects(shape, side):
    image = np.full(shape, 255, dtype=np.uint8)
    low, high = 60, 60 + side
    picture = draw(image, np.array([[low, low, high, high]]), [0], [""])
    inside = (picture[low:high, low:high] == 255).all(axis=2)
    assert inside.mean() >= 0.25
    assert (picture[low - 1 : high + 1, low - 1 : high + 1] != 255).any(axis=2).sum() > 4 * side


def test_pictures_are_saved_without_loss_and_with_the_fastest_compression(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    pictures.save_picture(picture, tmp_path / "1.png")
    with Image.open(tmp_path / "1.png") as image:
        assert (np.asarray(image) == picture).all()
        image.save(tmp_path / "fast.png", compress_level=1)
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "fast.png").read_bytes()
