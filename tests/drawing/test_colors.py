"""Colors of classes: different, and light enough for black text."""

from itertools import pairwise

import pytest

from fcos_d2.drawing.colors import class_color, luminance


def test_black_text_can_be_read_on_every_color():
    # The contrast that WCAG 2 asks for is 7 at most (for small text, level AAA).
    contrasts = [(luminance(class_color(k)) + 0.05) / 0.05 for k in range(-1, 1203)]
    assert min(contrasts) >= 7


def test_a_crowd_is_gray_and_neighboring_classes_differ():
    assert len(set(class_color(-1))) == 1
    colors = [class_color(k) for k in range(100)]
    assert len(set(colors)) == 100
    for a, b in pairwise(colors):
        assert max(abs(x - y) for x, y in zip(a, b, strict=True)) > 0.3


@pytest.mark.parametrize(("color", "value"), [((0, 0, 0), 0), ((1, 1, 1), 1), ((0, 0, 1), 0.0722)])
def test_luminance_is_that_of_srgb(color, value):
    assert luminance(color) == pytest.approx(value)
