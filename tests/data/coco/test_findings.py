"""Findings: their texts, and the lines of a report."""

import logging

import pytest

from fcos_d2.data.coco.findings import Kind, make_finding, report
from fcos_d2.errors import InputError, agree, count_words

LOGGER = logging.getLogger("fcos_d2.data.coco")

KIND = Kind("flat", "{box is|boxes are} flat", "Draw {it|them} again.", field="bbox")


@pytest.mark.parametrize(
    ("count", "text"), [(1, "1 box is here"), (2, "2 boxes are here"), (0, "0 boxes are here")]
)
def test_words_agree_with_the_number(count, text):
    assert count_words(count, "{box is|boxes are} here") == text


def test_texts_without_forms_stay_as_they_are():
    assert agree("a {bbox} | b", 1) == "a {bbox} | b"


def test_a_finding_has_one_complete_text():
    one = make_finding(KIND, [7], "annotation 7 of '1.png'", value=[1, 2, 3, 0])
    assert one.text == (
        "1 box is flat (annotation 7 of '1.png': bbox = [1, 2, 3, 0]). Draw it again."
    )
    two = make_finding(KIND._replace(field=""), [7, 8], "annotation 7", total=9)
    assert two.text == "2 of 9 boxes are flat (the first is annotation 7). Draw them again."
    assert (two.kind, two.count, two.entries) == ("flat", 2, [7, 8])


@pytest.mark.parametrize(
    ("num_warnings", "num_faults"), [(20, 0), (25, 0), (15, 5), (30, 5), (20, 20), (0, 25), (0, 3)]
)
def test_a_report_has_at_most_20_lines_and_says_how_to_see_the_rest(
    package_log, num_warnings, num_faults
):
    findings = [make_finding(KIND, [i], f"annotation {i}") for i in range(num_warnings)]
    fatal = [
        make_finding(KIND._replace(is_fatal=True), [-i], f"annotation {-i}")
        for i in range(1, num_faults + 1)
    ]
    error = None
    try:
        report([*findings, *fatal], "a.json", LOGGER)
    except InputError as raised:
        error = raised
    lines = [*package_log.messages, *(error.text.splitlines() if error else ())]
    assert len(lines) == min(20, num_warnings + num_faults)
    if num_warnings + num_faults > 20:
        assert any("--json" in x for x in lines)
    assert (len(error.faults) if error else 0) == num_faults
    if num_warnings == 30:
        assert "16 more findings are" in package_log.messages[-1]
