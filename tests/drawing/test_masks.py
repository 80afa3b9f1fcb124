"""Masks that are painted into images, pixel by pixel."""

import numpy as np
import pytest

from fcos_d2.drawing.masks import paint_masks

RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
WHITE = np.full((9, 12, 3), 255, dtype=np.uint8)
SYMBOLS = {(255, 255, 255): ".", (128, 128, 128): "d", (255, 0, 0): "R", (255, 153, 153): "r"}


def rectangle(top, bottom, left, right, shape=(9, 12)):
    """Return a mask of some rows and columns."""
    mask = np.zeros(shape, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def symbols(picture):
    """Return a line of text for each row: d for dark, R for red, r for light red, ? for others."""
    return ["".join(SYMBOLS.get(tuple(x.tolist()), "?") for x in row) for row in picture]


def test_a_mask_has_a_light_fill_an_outline_inside_and_a_dark_edge_outside():
    image = WHITE.copy()
    picture = paint_masks(image, [rectangle(2, 7, 3, 9)], [RED], 1)
    # 153 = (1 - 0.4) * 255, and 128 is half of 255.
    assert symbols(picture) == [
        "............",
        "...dddddd...",
        "..dRRRRRRd..",
        "..dRrrrrRd..",
        "..dRrrrrRd..",
        "..dRrrrrRd..",
        "..dRRRRRRd..",
        "...dddddd...",
        "............",
    ]
    assert (image == WHITE).all()


def test_the_outline_may_be_wider_and_is_closed_at_the_border_of_the_image():
    picture = paint_masks(WHITE, [rectangle(0, 7, 0, 7)], [RED], 2)
    assert symbols(picture) == [
        "RRRRRRRd....",
        "RRRRRRRd....",
        "RRrrrRRd....",
        "RRrrrRRd....",
        "RRrrrRRd....",
        "RRRRRRRd....",
        "RRRRRRRd....",
        "ddddddd.....",
        "............",
    ]


def test_masks_of_one_color_are_separate_where_they_touch():
    picture = paint_masks(WHITE, [rectangle(0, 9, 0, 6), rectangle(0, 9, 6, 12)], [RED, RED], 1)
    row = symbols(picture)[4]
    assert row[:6] == "RrrrrR"  # the first one is over the other
    assert row[6] == "?"  # the outline of the other one, which is dark there
    assert picture[4, 6].tolist() == [128, 0, 0]
    assert row[7:] == "rrrrR"


def test_the_first_mask_is_over_the_others_and_fills_are_transparent():
    big, small = rectangle(0, 9, 0, 12), rectangle(2, 7, 3, 9)
    picture = paint_masks(WHITE, [small, big], [GREEN, RED], 1)
    assert (picture[2, 3:9] == [0, 255, 0]).all()
    # Red on white is (255, 153, 153), and 0.6 of it plus 0.4 of green is (153, 194, 92).
    assert (picture[3:6, 4:8] == [153, 194, 92]).all()


@pytest.mark.parametrize("size", [1, 2])
def test_a_small_mask_has_its_full_color(size):
    picture = paint_masks(WHITE, [rectangle(4, 4 + size, 5, 5 + size)], [RED], 3)
    assert (picture[4 : 4 + size, 5 : 5 + size] == [255, 0, 0]).all()
    assert sum(row.count("R") for row in symbols(picture)) == size**2


@pytest.mark.parametrize("shape", [(9, 12), (10, 13), (27, 36), (13, 17), (18, 24)])
def test_a_mask_of_one_pixel_is_visible_in_every_size(shape):
    image = np.full((*shape, 3), 255, dtype=np.uint8)
    for row in range(9):
        for column in range(12):
            mask = rectangle(row, row + 1, column, column + 1)
            picture = paint_masks(image, [mask], [RED], 1)
            assert (picture == [255, 0, 0]).all(axis=2).any()


def test_a_mask_is_resized_to_the_image():
    image = np.zeros((18, 24, 3), dtype=np.uint8)
    picture = paint_masks(image, [rectangle(2, 7, 3, 9)], [RED], 1)
    rows, columns = np.nonzero(picture[:, :, 0])
    # The corners are round, and the edge is not visible on black.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 13, 6, 17)
    assert (picture[6:12, 8:16] == [102, 0, 0]).all()


@pytest.mark.parametrize("mask", [None, rectangle(0, 0, 0, 0)], ids=["none", "empty"])
def test_without_a_pixel_nothing_is_painted(mask):
    assert (paint_masks(WHITE, [mask], [RED], 1) == WHITE).all()


def test_no_masks_change_nothing():
    assert (paint_masks(WHITE, [], [], 1) == WHITE).all()


def test_masks_in_the_order_of_columns_are_painted_equally():
    mask = rectangle(2, 7, 3, 9)
    expected = paint_masks(WHITE, [mask], [RED], 1)
    assert (paint_masks(WHITE, [np.asfortranarray(mask)], [RED], 1) == expected).all()
