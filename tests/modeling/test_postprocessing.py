"""Post-processing: suppression, limits, and outputs that are not finite."""

import logging
import math

import pytest
import torch
from torchvision.ops import batched_nms, box_iou, nms

from fcos_d2.errors import InputError
from fcos_d2.modeling.candidates import Candidates
from fcos_d2.modeling.levels import Levels
from fcos_d2.modeling.postprocessing import FCOSPostProcessor, suppress
from fcos_d2.modeling.predictions import DensePredictions


def suppress_boxes(boxes, scores, classes, **options):
    candidates = candidates_of(torch.tensor(boxes), torch.tensor(scores), torch.tensor(classes))
    return suppress(candidates, (100, 100), 0.6, 100, **options).to_instances((100, 100))


def candidates_of(boxes, scores, classes):
    """Make candidates of one image, all with image, level and location 0."""
    idxs = torch.zeros(len(scores), dtype=torch.int64)
    return Candidates(idxs, idxs, idxs, classes, scores, boxes)


def random_boxes():
    """Return 300 boxes of 3 classes that overlap, in an image of 100 x 100 pixels."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(300, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 10 + torch.rand(300, 2, generator=generator) * 30], dim=1)
    scores = torch.rand(300, generator=generator)
    classes = torch.randint(3, (300,), generator=generator)
    return boxes, scores, classes


def test_boxes_are_clipped_before_nms():
    # Without clipping, class-wise NMS by offsets would move the box of class 1, which is left of
    # the image, onto the box of class 0.
    outside, inside = [-101.0, 0.0, -1.0, 100.0], [0.0, 0.0, 100.0, 100.0]
    result = suppress_boxes([outside, inside], [0.9, 0.8], [1, 0])
    assert result.pred_classes.tolist() == [0]  # The other box is empty after clipping.
    # The IoU is 100 / 130 = 0.77, but within the image it is 40 / 70 = 0.57: both boxes are kept.
    a, b = [-60.0, 0.0, 40.0, 100.0], [-60.0, 0.0, 70.0, 100.0]
    assert len(suppress_boxes([a, b], [0.9, 0.8], [0, 0])) == 2


def test_nms_is_by_class_sorted_and_limited():
    boxes, scores, classes = random_boxes()
    result = suppress(candidates_of(boxes, scores, classes), (100, 100), 0.6, 40).to_instances(
        (100, 100)
    )
    assert len(result) == 40
    assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)
    for k in range(3):
        iou = box_iou(*[result.pred_boxes.tensor[result.pred_classes == k]] * 2)
        assert (iou - torch.eye(len(iou))).max() <= 0.6


def test_class_agnostic_nms_removes_boxes_of_other_classes():
    box, near, far = [0.0, 0.0, 50.0, 50.0], [0.0, 0.0, 50.0, 45.0], [60.0, 60.0, 90.0, 90.0]
    boxes, scores, classes = [near, box, far, far], [0.6, 0.7, 0.4, 0.3], [1, 0, 1, 1]
    result = suppress_boxes(boxes, scores, classes)
    assert result.pred_classes.tolist() == [0, 1, 1]
    result = suppress_boxes(boxes, scores, classes, class_agnostic=True)
    assert result.pred_classes.tolist() == [0, 1]
    assert result.pred_boxes.tensor.tolist() == [box, far]


def test_class_agnostic_nms_of_many_boxes_equals_nms_without_classes():
    boxes, scores, classes = random_boxes()
    kept = suppress(candidates_of(boxes, scores, classes), (100, 100), 0.6, 40, class_agnostic=True)
    expected = nms(boxes, scores, 0.6)[:40]
    assert torch.equal(kept.scores, scores[expected])
    assert torch.equal(kept.classes, classes[expected])


@pytest.mark.parametrize(
    ("spread", "num_kept"),
    [
        (400.0, 5),  # Of the 40 best boxes, NMS keeps enough.
        (6.0, 5),  # Of the 40 best boxes, NMS keeps too few.
        (0.1, 2),  # NMS keeps too few of all boxes.
    ],
)
def test_nms_of_the_best_boxes_equals_nms_of_all(spread, num_kept):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(1000, 2, generator=generator) * spread
    boxes = torch.cat([corner, corner + 20], dim=1)
    scores = torch.rand(1000, generator=generator)
    classes = torch.randint(2, (1000,), generator=generator)
    classes[scores > 0.5] = 0
    first = scores.topk(40).indices
    enough_at_first = len(batched_nms(boxes[first], scores[first], classes[first], 0.6)) >= 5
    assert enough_at_first == (spread == 400)
    kept = suppress(candidates_of(boxes.clone(), scores, classes), (500, 500), 0.6, 5)
    result = kept.to_instances((500, 500))
    expected = batched_nms(boxes, scores, classes, 0.6)[:5]
    assert len(expected) == num_kept
    assert torch.equal(result.pred_boxes.tensor, boxes[expected])
    assert torch.equal(result.scores, scores[expected])
    assert torch.equal(result.pred_classes, classes[expected])


def maps_with(**changes):
    """Make maps of one level of 4 x 4 cells and one class; only the first row has high scores."""
    cls_logits, raw_ltrb, quality_logits = (torch.zeros(1, n, 4, 4) for n in (1, 4, 1))
    cls_logits[0, 0, 1:] = -9.0
    maps = {"cls_logits": cls_logits, "raw_ltrb": raw_ltrb + 1, "quality_logits": quality_logits}
    for name, values in changes.items():
        for cell, value in values.items():
            maps[name][0, -1, 0, cell] = value
    return DensePredictions(**{name: [x] for name, x in maps.items()}, extra={})


@pytest.mark.parametrize("with_quality", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_candidates_that_are_not_finite_are_dropped_with_one_warning(value, with_quality, caplog):
    processor = FCOSPostProcessor(
        levels=Levels([8]), topk_candidates_test=1, thresh_with_ctr=with_quality
    )
    maps = maps_with(raw_ltrb={0: value}, quality_logits={1: math.nan}, cls_logits={2: math.nan})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            (found,) = processor(maps, [(32, 32)])
            assert found.pred_boxes.tensor.tolist() == [[20, 0, 32, 12]]  # around (28, 4)
    (record,) = caplog.records
    assert "3 of 4" in record.getMessage()


def test_a_network_that_predicts_only_nan_causes_a_warning(caplog):
    maps = maps_with(cls_logits=dict.fromkeys(range(4), math.nan))
    (found,) = FCOSPostProcessor(levels=Levels([8]))(maps, [(32, 32)])
    assert len(found) == 0
    assert "4 of 4" in caplog.text


@pytest.mark.parametrize("function", [lambda p, q: p.double(), lambda p, q: (p * q).log().half()])
def test_scores_of_any_sign_and_type_are_ranked(function):
    maps = maps_with(cls_logits={0: 1.0, 1: 3.0, 2: 2.0})
    processor = FCOSPostProcessor(
        levels=Levels([8]), topk_candidates_test=2, score_function=function, nms_thresh_test=1.0
    )
    candidates = processor.candidates(maps)
    assert candidates.location_idxs.tolist() == [1, 2]
    assert candidates.scores.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [("scores", (4, 4), ["'scores'"]), ("mask", (8, 8), ["'mask'", "(8, 8)", "(4, 4)"])],
)
def test_extra_outputs_that_cannot_be_fields_are_an_error(name, size, words):
    maps = maps_with()._replace(extra={name: [torch.zeros(1, 2, *size)]})
    with pytest.raises(InputError) as caught:
        FCOSPostProcessor(levels=Levels([8]))(maps, [(32, 32)])
    assert all(word in caught.value.text for word in words)
