"""Findings: their texts, and the lines of a report."""

import pytest

from fcos_d2.data.coco.findings import Kind, agree, count_words, make_finding, report_lines

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


def test_a_report_has_at_most_20_lines_and_counts_the_rest():
    findings = [make_finding(KIND, [i], f"annotation {i}") for i in range(25)]
    fatal = findings[0]._replace(is_fatal=True)
    lines = list(report_lines([fatal, *findings[:20]], "a.json"))
    assert [x.startswith("a.json: 1 box ") for x in lines] == [True] * 20
    lines = list(report_lines(findings, "a.json"))
    assert len(lines) == 20
    assert "6 more" in lines[-1]
    assert "--json" in lines[-1]
