"""The comparison of detections and of raw outputs."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from input_errors import input_error

from fcos_d2.export.checking import Agreement, compare_detections

BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 40, 40]])
SCORES, CLASSES = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 2, 1])


def compare(boxes=BOXES, scores=SCORES, classes=CLASSES):
    """Compare detections with BOXES, SCORES and CLASSES."""
    expected = Instances((50, 50), pred_boxes=Boxes(BOXES), scores=SCORES, pred_classes=CLASSES)
    return compare_detections(expected, boxes, scores, classes)


def test_equal_detections_agree_in_any_order():
    order = [2, 0, 1]
    agreement = compare(BOXES[order], SCORES[order], CLASSES[order])
    assert agreement == Agreement(num_images=1, num_detections=3)


def test_the_largest_differences_are_kept():
    boxes, scores = BOXES.clone(), SCORES.clone()
    boxes[0, 1] += 0.005
    scores[2] -= 5e-5
    agreement = compare(boxes, scores)
    assert agreement.box_difference == pytest.approx(0.005)
    assert agreement.score_difference == pytest.approx(5e-5, rel=1e-2)
    assert (agreement.num_missing, agreement.num_additional) == (0, 0)


@pytest.mark.parametrize("field", ["boxes", "scores", "classes"])
def test_a_detection_with_another_value_is_missing_and_additional(field):
    values = {"boxes": BOXES.clone(), "scores": SCORES.clone(), "classes": CLASSES.clone()}
    values[field][1] += {"boxes": 0.02, "scores": 2e-4, "classes": 1}[field]
    agreement = compare(**values)
    assert (agreement.num_missing, agreement.num_additional) == (1, 1)


def test_additional_and_missing_detections_are_counted():
    twice = [torch.cat([x, x[:1]]) for x in (BOXES, SCORES, CLASSES)]
    assert compare(*twice)[2:4] == (0, 1)
    assert compare(BOXES[:1], SCORES[:1], CLASSES[:1])[2:4] == (2, 0)
    assert compare(BOXES[:0], SCORES[:0], CLASSES[:0])[2:4] == (3, 0)


@pytest.mark.parametrize(
    ("agreement", "is_accepted"),
    [
        (Agreement(1, 50, 1, 1), True),
        (Agreement(1, 50, 2, 0), False),
        (Agreement(1, 50, 0, 2), False),
        (Agreement(1, 400, 4, 4), True),
        (Agreement(1, 400, 5, 4), False),
        (Agreement(1, raw_difference=1e-4), True),
        (Agreement(1, raw_difference=2e-3), False),
        (Agreement(1, raw_difference=float("inf")), False),
    ],
)
def test_one_detection_or_a_hundredth_may_differ(agreement, is_accepted):
    if is_accepted:
        agreement.check("x.onnx")
        return
    with input_error("x.onnx", "differs"):
        agreement.check("x.onnx")


def test_agreements_are_joined():
    joined = Agreement(1, 5, 1, 0, 0.1, 0.2).join(Agreement(2, 7, 0, 3, 0.3, 0.1))
    assert joined == Agreement(3, 12, 1, 3, 0.3, 0.2)
    assert Agreement().join(Agreement(1, raw_difference=0.0)).raw_difference == 0.0
    assert "relative" in str(Agreement(1, raw_difference=0.0))
