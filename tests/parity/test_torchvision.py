"""Our FCOS with torchvision's weights is torchvision's, but for the differences listed last."""

import math

import pytest
import torch
from parity_models import (
    CHANNELS,
    FEATURE_SIZES,
    IMAGE_SIZES,
    NUM_CLASSES,
    NUM_CONVS,
    STRIDES,
    SampledPyramid,
    assert_close_in_norm,
    assert_peers_rules_agree,
    assert_same_detections,
    boxes_about_locations,
    build_ours,
    draw_boxes,
    draw_images,
    draw_weights,
    make_constant,
    make_inputs,
    make_instances,
    our_box_losses,
    our_matched_idxs,
    predict,
    renamed,
)
from torchvision.models.detection import fcos as torchvision_fcos
from torchvision.models.detection.image_list import ImageList

from fcos_d2.modeling.levels import compute_locations, flatten_levels

OFFSET = 0  # torchvision's locations are the corners of the cells
NAMES = {
    "classification_head.conv": "cls_tower",
    "classification_head.cls_logits": "cls_logits",
    "regression_head.conv": "bbox_tower",
    "regression_head.bbox_reg": "bbox_pred",
    "regression_head.bbox_ctrness": "centerness",
}
LOSS_NAMES = {
    "classification": "loss_fcos_cls",
    "bbox_regression": "loss_fcos_loc",
    "bbox_ctrness": "loss_fcos_ctr",
}


def build_both(radius=1.5, our_thresh=0.05, their_thresh=0.05**0.5, topk=1000, keep=100):
    """(ours, theirs): one backbone, the same weights."""
    torch.manual_seed(0)
    backbone = SampledPyramid()
    head = torchvision_fcos.FCOSHead(CHANNELS, 1, NUM_CLASSES, num_convs=NUM_CONVS)
    draw_weights(head, head.regression_head.bbox_reg)
    theirs = torchvision_fcos.FCOS(
        backbone,
        NUM_CLASSES,
        head=head,
        center_sampling_radius=radius,
        score_thresh=their_thresh,
        topk_candidates=topk,
        detections_per_img=keep,
        min_size=min(min(size) for size in IMAGE_SIZES),  # nothing is resized
        image_mean=[0.0, 0.0, 0.0],
        image_std=[1.0, 1.0, 1.0],
        size_divisible=128,  # or its grid is not that of the strides
    )
    ours = build_ours(
        backbone,
        head,
        NAMES,
        OFFSET,
        radius,
        score_thresh_test=our_thresh,
        topk_candidates_test=topk,
        detections_per_image=keep,
    )
    return ours, theirs


def their_targets(instances):
    return [{"boxes": x.gt_boxes.tensor, "labels": x.gt_classes} for x in instances]


def their_matched_idxs(theirs, boxes_per_image):
    """What FCOS.compute_loss hands to the losses of the head, and the anchors."""
    theirs.head.compute_loss = lambda targets, outputs, anchors, matched: (matched, anchors)
    matched, anchors = theirs(draw_images(), their_targets(make_instances(boxes_per_image)))
    return torch.stack(matched), anchors[0]


def test_raw_outputs_are_equal():
    ours, theirs = build_both()
    cls_logits, raw_ltrb, centerness_logits = map(flatten_levels, predict(ours, draw_images())[:3])
    images, _ = theirs.transform(draw_images())
    outputs = theirs.head(list(theirs.backbone(images.tensors).values()))
    assert outputs["cls_logits"].std() > 0.3  # they are no constants
    torch.testing.assert_close(cls_logits, outputs["cls_logits"], rtol=0, atol=1e-5)
    torch.testing.assert_close(raw_ltrb.relu(), outputs["bbox_regression"], rtol=0, atol=1e-5)
    torch.testing.assert_close(centerness_logits, outputs["bbox_ctrness"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("counts", [(30, 20), (25, 0), (0, 0)])
@pytest.mark.parametrize("radius", [1.5, 2.5])
def test_targets_are_equal(counts, radius):
    ours, theirs = build_both(radius)
    boxes = draw_boxes(counts)
    assert_peers_rules_agree(boxes, OFFSET)
    matched, anchors = their_matched_idxs(theirs, boxes)
    locations = torch.cat(compute_locations(FEATURE_SIZES, STRIDES, OFFSET))
    assert torch.equal((anchors[:, :2] + anchors[:, 2:]) / 2, locations)
    assert torch.equal(our_matched_idxs(ours, make_instances(boxes)), matched)
    levels = (matched >= 0).split([height * width for height, width in FEATURE_SIZES], dim=1)
    assert [x.any(1).tolist() for x in levels] == [[count > 0 for count in counts]] * 5


@pytest.mark.parametrize("counts", [(30, 20), (25, 0), (0, 0)])
def test_class_and_centerness_losses_are_equal(counts):
    ours, theirs = build_both()
    boxes = draw_boxes(counts)
    assert_peers_rules_agree(boxes, OFFSET)
    instances = make_instances(boxes)
    our_losses = ours(make_inputs(draw_images(), instances))
    their_losses = theirs(draw_images(), their_targets(instances))
    for name in ("classification", "bbox_ctrness"):
        assert (their_losses[name] > 0) == (name == "classification" or sum(counts) > 0)
        torch.testing.assert_close(
            our_losses[LOSS_NAMES[name]], their_losses[name], rtol=1e-4, atol=0
        )


def test_box_loss_is_equal_but_for_the_weighting():
    ours, theirs = build_both()
    boxes = draw_boxes((30, 20))
    assert_peers_rules_agree(boxes, OFFSET)
    instances = make_instances(boxes)
    losses, centerness = our_box_losses(ours, predict(ours, draw_images()), instances)
    our_loss = ours(make_inputs(draw_images(), instances))["loss_fcos_loc"]
    their_loss = theirs(draw_images(), their_targets(instances))["bbox_regression"]
    torch.testing.assert_close(losses.mean(), their_loss, rtol=1e-4, atol=0)
    weighted = (losses * centerness).sum() / centerness.sum()
    torch.testing.assert_close(our_loss, weighted, rtol=1e-5, atol=0)
    assert (our_loss - their_loss).abs() > 1e-3


def test_all_losses_and_gradients_are_equal_for_locations_in_the_middle_of_their_boxes():
    ours, theirs = build_both(radius=1)
    boxes = boxes_about_locations(OFFSET)
    assert_peers_rules_agree(boxes, OFFSET)
    instances = make_instances(boxes)
    _, centerness = our_box_losses(ours, predict(ours, draw_images()), instances)
    assert centerness.tolist() == [1] * 5  # so all weights are 1: one positive a box
    our_losses = ours(make_inputs(draw_images(), instances))
    their_losses = theirs(draw_images(), their_targets(instances))
    for name, loss in their_losses.items():
        torch.testing.assert_close(our_losses[LOSS_NAMES[name]], loss, rtol=1e-4, atol=0)
    sum(our_losses.values()).backward()
    sum(their_losses.values()).backward()
    grads = renamed({name: p.grad for name, p in theirs.head.named_parameters()}, NAMES)
    for name, parameter in ours.head.named_parameters():
        if not name.startswith("scales"):  # torchvision has none
            assert_close_in_norm(parameter.grad, grads[name], rtol=1e-4)


@torch.no_grad()
def detect_with_both(ours, theirs):
    """For each image our Instances and their dict."""
    images = draw_images()
    our_results = [x["instances"] for x in ours.eval()(make_inputs(images))]
    return list(zip(our_results, theirs.eval()(images), strict=True))


def without_empty(result):
    """Torchvision returns boxes of which clipping left nothing; see the known differences."""
    x1, y1, x2, y2 = result["boxes"].unbind(1)
    has_extent = (x2 > x1) & (y2 > y1)
    return [result[name][has_extent] for name in ("boxes", "scores", "labels")]


@pytest.mark.parametrize("topk", [150, 1000])
def test_detections_are_equal_without_a_threshold(topk):
    ours, theirs = build_both(our_thresh=0, their_thresh=0, topk=topk, keep=100_000)
    num_candidates = sum(min(topk, height * width * NUM_CLASSES) for height, width in FEATURE_SIZES)
    for our_result, their_result in detect_with_both(ours, theirs):
        assert 100 < len(our_result) < 0.8 * num_candidates  # NMS has work to do
        assert_same_detections(our_result, *without_empty(their_result))


def test_detections_are_equal_where_the_two_thresholds_mean_the_same():
    # Centre-ness 1 everywhere: class score > .3 and its root > sqrt(.3).
    ours, theirs = build_both(our_thresh=0.3, their_thresh=0.3**0.5, keep=100_000)
    make_constant(ours.head.centerness, 100)
    make_constant(theirs.head.regression_head.bbox_ctrness, 100)
    for our_result, their_result in detect_with_both(ours, theirs):
        assert len(our_result) > 100
        assert 0.3**0.5 < our_result.scores.min() < 0.31**0.5  # the threshold cut
        assert_same_detections(our_result, *without_empty(their_result))


# Known differences: what torchvision does, and what we do.


def test_difference_border_distance_is_positive_on_both_levels_and_nowhere_in_torchvision():
    ours, theirs = build_both()
    # 128 x 80 about (160, 160), a location of P3 and of P4: the sides are 64 away at x = 160.
    boxes = [torch.tensor([[96.0, 120.0, 224.0, 200.0]]), torch.zeros(0, 4)]
    matched, _ = their_matched_idxs(theirs, boxes)
    sizes = [height * width for height, width in FEATURE_SIZES]
    # P3: x = 160 alone is near enough, y = 152, 160, 168. P4: x and y = 144, 160, 176.
    both = our_matched_idxs(ours, make_instances(boxes))[0].split(sizes)
    assert [(level >= 0).sum().item() for level in both] == [3, 9, 0, 0, 0]
    neither = matched[0].split(sizes)
    assert [(level >= 0).sum().item() for level in neither] == [0, 6, 0, 0, 0]


def test_difference_the_smaller_area_wins_also_where_torchvisions_float32_cannot_tell():
    large, small = [154.5, 155.5, 165.5, 164.5], [154.0, 156.0, 166.0, 164.0]  # 99, 96
    cell = 20 * FEATURE_SIZES[0][1] + 20  # location (160, 160) of P3 is inside both
    assert torch.tensor(1e8) - 99 == torch.tensor(1e8) - 96
    their_areas, our_areas = [], []
    for boxes in (torch.tensor([large, small]), torch.tensor([small, large])):
        ours, theirs = build_both()
        batch = [boxes, torch.zeros(0, 4)]
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        their_areas.append(areas[their_matched_idxs(theirs, batch)[0][0, cell]].item())
        our_areas.append(areas[our_matched_idxs(ours, make_instances(batch))[0, cell]].item())
    assert our_areas == [96, 96]
    assert sorted(their_areas) == [96, 99]  # whichever is listed first


def test_difference_torchvisions_grid_leaves_the_strides_when_padding_is_no_multiple_of_128():
    theirs = build_both()[1]
    feature_sizes = [(-(-800 // stride), -(-1088 // stride)) for stride in STRIDES]
    images = ImageList(torch.zeros(1, 3, 800, 1088), [(800, 1088)])
    (anchors,) = theirs.anchor_generator(images, [torch.zeros(1, 1, *x) for x in feature_sizes])
    centers = ((anchors[:, :2] + anchors[:, 2:]) / 2).split([h * w for h, w in feature_sizes])
    ours = compute_locations(feature_sizes, STRIDES, OFFSET)
    same = [torch.equal(x, y) for x, y in zip(centers, ours, strict=True)]
    assert same == [True, True, True, False, False]
    # P7: 7 x 9 cells, so 800 // 7 = 114 and 1088 // 9 = 120 where the stride is 128.
    assert centers[4][10].tolist() == [120, 114]
    assert ours[4][10].tolist() == [128, 128]


def test_difference_torchvision_returns_boxes_that_clipping_left_empty():
    ours, theirs = build_both(our_thresh=0, their_thresh=0, keep=100_000)
    for our_result, their_result in detect_with_both(ours, theirs):
        assert len(without_empty(their_result)[0]) < len(their_result["boxes"])
        assert our_result.pred_boxes.nonempty().all()


def test_difference_our_threshold_does_not_count_centerness():
    # Class .5, centre-ness .1: torchvision asks whether sqrt(.05) = .22 > .3, we whether .5 > .3.
    ours, theirs = build_both(our_thresh=0.3, their_thresh=0.3)
    for predictor in (ours.head.cls_logits, theirs.head.classification_head.cls_logits):
        make_constant(predictor, 0)
    for predictor in (ours.head.centerness, theirs.head.regression_head.bbox_ctrness):
        make_constant(predictor, -math.log(9))
    for our_result, their_result in detect_with_both(ours, theirs):
        assert our_result.scores.tolist() == pytest.approx([0.05**0.5] * 100)
        assert len(their_result["scores"]) == 0
