"""Texts of labels: names, scores, and how long names are shortened."""

import pytest

from fcos_d2.drawing.labels import format_labels, shorten


def test_labels_have_names_and_rounded_scores():
    assert format_labels(["cat", "dog"], [0.876, 1.0], 99, len) == ["cat 88%", "dog 100%"]
    assert format_labels(["cat", ""], [], 99, len) == ["cat", ""]
    assert format_labels([""], [0.5], 99, len) == ["50%"]
    assert format_labels(["two\nlines"], [0.5], 99, len) == ["two lines 50%"]
    assert format_labels([], [], 99, len) == []


def test_only_names_that_are_too_wide_are_shortened_all_in_the_same_way():
    names = ["abcdefghij", "abcdefghij", "abcdefg"]
    # " 100%" leaves 7 characters.
    assert format_labels(names, [1.0, 0.05, 0.5], 12, len) == [
        "abc…hij 100%",
        "abc…hij 5%",
        "abcdefg 50%",
    ]
    assert format_labels(names[:1], [], 7, len) == ["abc…hij"]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (26, "apple, ripe and very sweet"),
        (25, "apple, ripe…d very sweet"),  # a space at the cut is left out
        (6, "app…et"),
        (3, "a…t"),
        (2, "a…"),
        (1, "…"),
        (0, "…"),
        (-9, "…"),
    ],
)
def test_the_middle_of_a_text_is_left_out(width, expected):
    assert shorten("apple, ripe and very sweet", width, len) == expected


def test_no_spaces_are_next_to_the_ellipsis():
    assert shorten("one two three four", 8, len) == "one…four"


def test_the_measured_width_counts():
    def measure(text):
        return sum(3.0 if x == "W" else 1.0 for x in text)

    assert shorten("WWWWiiii", 9, measure) == "WW…ii"
