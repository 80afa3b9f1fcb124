"""Sizes of texts and lines in pictures of different sizes."""

import pytest

from fcos_d2.drawing.sizes import sizes_for


def test_sizes_are_proportional_to_small_pictures():
    assert sizes_for(640, 640) == pytest.approx((640 / 75, 640 / 300, 2))
    assert sizes_for(600, 600).font == pytest.approx(8)
    assert sizes_for(640, 10) == (7, 1.75, 1)  # the smallest font that can be read


def test_sizes_grow_with_the_square_root_of_large_pictures():
    small, large = sizes_for(640, 640), sizes_for(4 * 640, 4 * 640)
    assert large == pytest.approx((2 * small.font, 2 * small.line, 4))
    assert sizes_for(1280, 5120) == large  # the area counts
