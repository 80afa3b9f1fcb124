"""Our FCOS and torchvision's with the same weights: equal results, and the known differences."""

import math

import pytest
import torch
from parity_models import (
    FEATURE_SIZES,
    NUM_CLASSES,
    STRIDES,
    add_random_classes,
    assert_close_detections,
    assert_peers_rules_agree,
    assert_same_gradients,
    build_both,
    compute_our_box_losses,
    draw_boxes,
    draw_images,
    find_our_matched_idxs,
    find_predictor,
    make_batch,
    make_boxes_about_locations,
    make_constant,
    make_inputs,
    predict,
)
from peers import Torchvision, to_torchvision_targets
from torchvision.models.detection.image_list import ImageList

from fcos_d2.modeling.levels import compute_locations, flatten_levels

OFFSET = Torchvision.location_offset
LOSS_NAMES = {
    "classification": "loss_fcos_cls",
    "bbox_regression": "loss_fcos_loc",
    "bbox_ctrness": "loss_fcos_ctr",
}


def compute_losses_of_both(ours, theirs, instances):
    """Compute our losses, and torchvision's losses with its whole model."""
    our_losses = ours.model(make_inputs(draw_images(), instances))
    return our_losses, theirs.model.original(draw_images(), to_torchvision_targets(instances))


def test_raw_outputs_are_equal():
    ours, theirs = build_both(Torchvision)
    cls_logits, raw_ltrb, centerness_logits = map(flatten_levels, predict(ours, draw_images())[:3])
    original = theirs.model.original
    images, _ = original.transform(draw_images())
    outputs = original.head(list(original.backbone(images.tensors).values()))
    assert outputs["cls_logits"].std() > 0.3  # they are not constant
    torch.testing.assert_close(cls_logits, outputs["cls_logits"], rtol=0, atol=1e-5)
    torch.testing.assert_close(raw_ltrb.relu(), outputs["bbox_regression"], rtol=0, atol=1e-5)
    torch.testing.assert_close(centerness_logits, outputs["bbox_ctrness"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("counts", [(30, 20), (25, 0), (0, 0)])
@pytest.mark.parametrize("radius", [1.5, 2.5])
def test_targets_are_equal(counts, radius):
    ours, theirs = build_both(Torchvision, radius=radius)
    boxes = draw_boxes(counts)
    assert_peers_rules_agree(boxes, OFFSET)
    batch = make_batch(boxes)
    matched = torch.stack(theirs.match(batch))
    anchors = theirs.model.make_anchors(batch.images, batch.features)[0]
    locations = torch.cat(compute_locations(FEATURE_SIZES, STRIDES, OFFSET))
    assert torch.equal((anchors[:, :2] + anchors[:, 2:]) / 2, locations)
    assert torch.equal(find_our_matched_idxs(ours, batch), matched)
    levels = (matched >= 0).split([height * width for height, width in FEATURE_SIZES], dim=1)
    assert [x.any(1).tolist() for x in levels] == [[count > 0 for count in counts]] * 5


@pytest.mark.parametrize("counts", [(30, 20), (25, 0), (0, 0)])
def test_class_and_centerness_losses_are_equal(counts):
    ours, theirs = build_both(Torchvision)
    boxes = draw_boxes(counts)
    assert_peers_rules_agree(boxes, OFFSET)
    instances = add_random_classes(boxes)
    our_losses, their_losses = compute_losses_of_both(ours, theirs, instances)
    for name in ("classification", "bbox_ctrness"):
        assert (their_losses[name] > 0) == (name == "classification" or sum(counts) > 0)
        torch.testing.assert_close(
            our_losses[LOSS_NAMES[name]], their_losses[name], rtol=1e-4, atol=0
        )


def test_box_loss_is_equal_but_for_the_weighting():
    ours, theirs = build_both(Torchvision)
    boxes = draw_boxes((30, 20))
    assert_peers_rules_agree(boxes, OFFSET)
    losses, centerness = compute_our_box_losses(
        ours, predict(ours, draw_images()), make_batch(boxes)
    )
    our_losses, their_losses = compute_losses_of_both(ours, theirs, add_random_classes(boxes))
    our_loss, their_loss = our_losses["loss_fcos_loc"], their_losses["bbox_regression"]
    torch.testing.assert_close(losses.mean(), their_loss, rtol=1e-4, atol=0)
    weighted = (losses * centerness).sum() / centerness.sum()
    torch.testing.assert_close(our_loss, weighted, rtol=1e-5, atol=0)
    assert (our_loss - their_loss).abs() > 1e-3


def test_all_losses_and_gradients_are_equal_for_locations_in_the_middle_of_their_boxes():
    ours, theirs = build_both(Torchvision, radius=1)
    boxes = make_boxes_about_locations(OFFSET)
    assert_peers_rules_agree(boxes, OFFSET)
    batch = make_batch(boxes)
    _, centerness = compute_our_box_losses(ours, predict(ours, draw_images()), batch)
    assert centerness.tolist() == [1] * 5  # There is one positive per box, with the weight 1.
    our_losses, their_losses = compute_losses_of_both(ours, theirs, batch.instances)
    for name, loss in their_losses.items():
        torch.testing.assert_close(our_losses[LOSS_NAMES[name]], loss, rtol=1e-4, atol=0)
    sum(our_losses.values()).backward()
    sum(their_losses.values()).backward()
    assert_same_gradients(ours, theirs, tuple(Torchvision.head_names))


@torch.no_grad()
def detect_with_both(ours, theirs):
    """Return (our Instances, the dict of torchvision's whole model) of each image."""
    images = draw_images()
    our_results = [x["instances"] for x in ours.model.eval()(make_inputs(images))]
    return list(zip(our_results, theirs.model.original.eval()(images), strict=True))


def without_empty(result):
    """Return boxes, scores and labels without the boxes that are empty after clipping."""
    x1, y1, x2, y2 = result["boxes"].unbind(1)
    has_extent = (x2 > x1) & (y2 > y1)
    return [result[name][has_extent] for name in ("boxes", "scores", "labels")]


@pytest.mark.parametrize("topk", [150, 1000])
def test_detections_are_equal_without_a_threshold(topk):
    ours, theirs = build_both(Torchvision, our_thresh=0, their_thresh=0, topk=topk, keep=100_000)
    num_candidates = sum(min(topk, height * width * NUM_CLASSES) for height, width in FEATURE_SIZES)
    for our_result, their_result in detect_with_both(ours, theirs):
        assert 100 < len(our_result) < 0.8 * num_candidates  # NMS removes some
        assert_close_detections(our_result, *without_empty(their_result))


def test_detections_are_equal_where_the_two_thresholds_mean_the_same():
    # The center-ness is 1 everywhere, so the class score is > .3 if its root is > sqrt(.3).
    ours, theirs = build_both(Torchvision, our_thresh=0.3, their_thresh=0.3**0.5, keep=100_000)
    for predictor in (ours.model.head.centerness, find_predictor(theirs, "centerness")):
        make_constant(predictor, 100)
    for our_result, their_result in detect_with_both(ours, theirs):
        assert len(our_result) > 100
        assert 0.3**0.5 < our_result.scores.min() < 0.31**0.5  # The threshold has an effect.
        assert_close_detections(our_result, *without_empty(their_result))


# Known differences between torchvision and fcos_d2.


def test_difference_a_distance_equal_to_a_border_is_positive_but_not_in_torchvision():
    ours, theirs = build_both(Torchvision)
    # The box is 128 x 80 around (160, 160), a location of P3 and of P4. At x = 160, the left and
    # right sides are 64 pixels away.
    batch = make_batch([torch.tensor([[96.0, 120.0, 224.0, 200.0]]), torch.zeros(0, 4)])
    sizes = [height * width for height, width in FEATURE_SIZES]
    # Positive on P3 are x = 160 and y = 152, 160, 168; on P4, x and y = 144, 160, 176.
    both = find_our_matched_idxs(ours, batch)[0].split(sizes)
    assert [(level >= 0).sum().item() for level in both] == [3, 9, 0, 0, 0]
    neither = theirs.match(batch)[0].split(sizes)
    assert [(level >= 0).sum().item() for level in neither] == [0, 6, 0, 0, 0]


def test_difference_the_smaller_area_wins_also_if_torchvision_rounds_areas_to_the_same_value():
    large, small = [154.5, 155.5, 165.5, 164.5], [154.0, 156.0, 166.0, 164.0]  # 99, 96
    cell = 20 * FEATURE_SIZES[0][1] + 20  # location (160, 160) of P3 is inside both
    assert torch.tensor(1e8) - 99 == torch.tensor(1e8) - 96
    ours, theirs = build_both(Torchvision)
    their_areas, our_areas = [], []
    for boxes in (torch.tensor([large, small]), torch.tensor([small, large])):
        batch = make_batch([boxes, torch.zeros(0, 4)])
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        their_areas.append(areas[theirs.match(batch)[0][cell]].item())
        our_areas.append(areas[find_our_matched_idxs(ours, batch)[0, cell]].item())
    assert our_areas == [96, 96]
    assert sorted(their_areas) == [96, 99]  # In torchvision, the first box wins.


def test_difference_torchvisions_locations_leave_the_grid_if_sizes_are_no_multiples_of_128():
    generator = build_both(Torchvision)[1].model.original.anchor_generator
    feature_sizes = [(-(-800 // stride), -(-1088 // stride)) for stride in STRIDES]
    images = ImageList(torch.zeros(1, 3, 800, 1088), [(800, 1088)])
    (anchors,) = generator(images, [torch.zeros(1, 1, *x) for x in feature_sizes])
    centers = ((anchors[:, :2] + anchors[:, 2:]) / 2).split([h * w for h, w in feature_sizes])
    ours = compute_locations(feature_sizes, STRIDES, OFFSET)
    same = [torch.equal(x, y) for x, y in zip(centers, ours, strict=True)]
    assert same == [True, True, True, False, False]
    # P7 has 7 x 9 cells, so torchvision uses 800 // 7 = 114 and 1088 // 9 = 120 instead of 128.
    assert centers[4][10].tolist() == [120, 114]
    assert ours[4][10].tolist() == [128, 128]


def test_difference_torchvision_returns_boxes_that_are_empty_after_clipping():
    ours, theirs = build_both(Torchvision, our_thresh=0, their_thresh=0, keep=100_000)
    for our_result, their_result in detect_with_both(ours, theirs):
        assert len(without_empty(their_result)[0]) < len(their_result["boxes"])
        assert our_result.pred_boxes.nonempty().all()


def test_difference_our_threshold_does_not_depend_on_centerness():
    # The class score is .5 and the center-ness .1. torchvision compares sqrt(.05) = .22 with the
    # threshold .3, and we compare .5.
    ours, theirs = build_both(Torchvision, our_thresh=0.3, their_thresh=0.3)
    for predictor in (ours.model.head.cls_logits, find_predictor(theirs, "cls_logits")):
        make_constant(predictor, 0)
    for predictor in (ours.model.head.centerness, find_predictor(theirs, "centerness")):
        make_constant(predictor, -math.log(9))
    for our_result, their_result in detect_with_both(ours, theirs):
        assert our_result.scores.tolist() == pytest.approx([0.05**0.5] * 100)
        assert len(their_result["scores"]) == 0
