"""Our FCOS and detectron2's with the same weights: equal results, and the known differences."""

import math

import pytest
import torch
from detectron2.structures import Boxes, ImageList
from detectron2.utils.events import EventStorage
from parity_models import (
    FEATURE_SIZES,
    NUM_CLASSES,
    PADDED_SIZE,
    STRIDES,
    assert_close_detections,
    assert_peers_rules_agree,
    assert_same_gradients,
    build_both,
    compute_our_box_losses,
    copy_head,
    draw_boxes,
    draw_images,
    draw_weights,
    find_our_matched_idxs,
    find_predictor,
    make_batch,
    make_boxes_about_locations,
    make_constant,
    make_head_cfg,
    make_inputs,
    predict,
)
from peers import Detectron2, Ours

from fcos_d2.modeling.levels import compute_locations, decode_ltrb

OFFSET = Detectron2.location_offset


def make_their_anchors(theirs):
    return theirs.model.anchor_generator([torch.zeros(1, 1, *size) for size in FEATURE_SIZES])


def compute_losses_of_both(ours, theirs, batch):
    """Compute our losses and theirs, with their moving average set to the number of positives."""
    num_positives = (find_our_matched_idxs(ours, batch) >= 0).sum().item()
    theirs.model.loss_normalizer = max(num_positives, 1)
    inputs = make_inputs(draw_images(), batch.instances)
    with EventStorage():
        their_losses = theirs.model(inputs)
    assert theirs.model.loss_normalizer == pytest.approx(max(num_positives, 1))
    return ours.model(inputs), their_losses


def test_locations_are_equal():
    centers = [anchors.get_centers() for anchors in make_their_anchors(build_both(Detectron2)[1])]
    for ours, theirs in zip(
        compute_locations(FEATURE_SIZES, STRIDES, OFFSET), centers, strict=True
    ):
        assert torch.equal(ours, theirs)


def test_raw_outputs_are_equal():
    ours, theirs = build_both(Detectron2)
    their_predictions = predict(theirs, draw_images())
    assert torch.cat([x.flatten() for x in their_predictions[0]]).std() > 0.3  # not constant
    for our_maps, their_maps in zip(
        predict(ours, draw_images())[:3], their_predictions, strict=True
    ):
        torch.testing.assert_close(our_maps, their_maps, rtol=0, atol=1e-5)


@pytest.mark.parametrize("radius", [1.5, 2.5])
@pytest.mark.parametrize("counts", [(30, 20), (25, 0), (0, 0)])
def test_targets_are_equal(counts, radius):
    ours, theirs = build_both(Detectron2, radius=radius)
    boxes = draw_boxes(counts)
    assert_peers_rules_agree(boxes, OFFSET)
    batch = make_batch(boxes)
    labels, their_boxes = theirs.assign(batch)
    matched = find_our_matched_idxs(ours, batch)
    levels = (matched >= 0).split([height * width for height, width in FEATURE_SIZES], dim=1)
    assert [x.any(1).tolist() for x in levels] == [[count > 0 for count in counts]] * 5
    for image, found in enumerate(matched):
        is_positive = found >= 0
        assert torch.equal(is_positive, labels[image] != NUM_CLASSES)
        owners = found[is_positive]
        assert torch.equal(batch.instances[image].gt_classes[owners], labels[image][is_positive])
        assert torch.equal(boxes[image][owners], their_boxes[image][is_positive])


@pytest.mark.parametrize("counts", [(30, 20), (25, 0), (0, 0)])
def test_class_and_centerness_losses_are_equal(counts):
    ours, theirs = build_both(Detectron2)
    boxes = draw_boxes(counts)
    assert_peers_rules_agree(boxes, OFFSET)
    our_losses, their_losses = compute_losses_of_both(ours, theirs, make_batch(boxes))
    for name in ("loss_fcos_cls", "loss_fcos_ctr"):
        assert (their_losses[name] > 0) == (name == "loss_fcos_cls" or sum(counts) > 0)
        torch.testing.assert_close(our_losses[name], their_losses[name], rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("loss", "branch"),
    [
        ("loss_fcos_cls", ("cls_tower", "cls_logits")),
        ("loss_fcos_ctr", ("bbox_tower", "centerness")),
    ],
)
def test_gradients_of_class_and_centerness_losses_are_equal(loss, branch):
    ours, theirs = build_both(Detectron2)
    boxes = draw_boxes((30, 20))
    assert_peers_rules_agree(boxes, OFFSET)
    our_losses, their_losses = compute_losses_of_both(ours, theirs, make_batch(boxes))
    our_losses[loss].backward()
    their_losses[loss].backward()
    assert_same_gradients(ours, theirs, branch)


def test_box_loss_is_equal_but_for_the_weighting():
    ours, theirs = build_both(Detectron2)
    boxes = draw_boxes((30, 20))
    assert_peers_rules_agree(boxes, OFFSET)
    batch = make_batch(boxes)
    losses, centerness = compute_our_box_losses(ours, predict(ours, draw_images()), batch)
    our_losses, their_losses = compute_losses_of_both(ours, theirs, batch)
    our_loss, their_loss = our_losses["loss_fcos_loc"], their_losses["loss_fcos_loc"]
    torch.testing.assert_close(losses.mean(), their_loss, rtol=1e-4, atol=0)
    weighted = (losses * centerness).sum() / centerness.sum()
    torch.testing.assert_close(our_loss, weighted, rtol=1e-5, atol=0)
    assert (our_loss - their_loss).abs() > 1e-3


def test_all_losses_and_gradients_are_equal_for_locations_in_the_middle_of_their_boxes():
    ours, theirs = build_both(Detectron2, radius=1)
    boxes = make_boxes_about_locations(OFFSET)
    assert_peers_rules_agree(boxes, OFFSET)
    batch = make_batch(boxes)
    _, centerness = compute_our_box_losses(ours, predict(ours, draw_images()), batch)
    assert centerness.tolist() == [1] * 5  # There is one positive per box, with the weight 1.
    our_losses, their_losses = compute_losses_of_both(ours, theirs, batch)
    assert our_losses.keys() == their_losses.keys()
    for name, loss in their_losses.items():
        torch.testing.assert_close(our_losses[name], loss, rtol=1e-4, atol=0)
    sum(our_losses.values()).backward()
    sum(their_losses.values()).backward()
    assert_same_gradients(ours, theirs, tuple(Detectron2.head_names))


@torch.no_grad()
def detect_with_both(ours, theirs, images):
    """Return (our Instances, their Instances) of each image."""
    results = [x.model.eval()(make_inputs(images)) for x in (ours, theirs)]
    return [(x["instances"], y["instances"]) for x, y in zip(*results, strict=True)]


def assert_same_as_theirs(ours, theirs):
    assert_close_detections(ours, theirs.pred_boxes.tensor, theirs.scores, theirs.pred_classes)


@pytest.mark.parametrize("topk", [150, 1000])
def test_candidates_are_equal_without_a_threshold(topk):
    # No IoU is above 1, so NMS removes nothing. Both clip the boxes and remove empty ones.
    ours, theirs = build_both(
        Detectron2, our_thresh=0, their_thresh=0, topk=topk, keep=100_000, nms=1
    )
    for our_result, their_result in detect_with_both(ours, theirs, draw_images()):
        assert len(our_result) > topk
        assert_same_as_theirs(our_result, their_result)


def test_candidates_are_equal_where_the_two_thresholds_mean_the_same():
    # The center-ness is 1 everywhere, so the class score is > .3 if its root is > sqrt(.3).
    ours, theirs = build_both(
        Detectron2, our_thresh=0.3, their_thresh=0.3**0.5, keep=100_000, nms=1
    )
    for predictor in (ours.model.head.centerness, find_predictor(theirs, "centerness")):
        make_constant(predictor, 100)
    for our_result, their_result in detect_with_both(ours, theirs, draw_images()):
        assert 0.3**0.5 < our_result.scores.min() < 0.31**0.5  # The threshold has an effect.
        assert_same_as_theirs(our_result, their_result)


def infer(peer, maps):
    """Detect in one image of 384 x 384 from copies of raw maps, which detectron2 overwrites."""
    images = ImageList(torch.zeros(1, 3, *PADDED_SIZE), [PADDED_SIZE])
    features = [torch.zeros(1, 1, *size) for size in FEATURE_SIZES]
    predictions = peer.join_maps([[x.clone() for x in y] for y in maps])
    (result,) = peer.model.forward_inference(images, features, predictions)
    return result


def draw_maps_with_boxes_inside():
    """Draw raw maps of one image, with scores of 0 for the boxes that extend beyond the image."""
    generator = torch.Generator().manual_seed(0)
    maps = [
        [torch.randn(1, channels, *x, generator=generator) for x in FEATURE_SIZES]
        for channels in (NUM_CLASSES, 4, 1)
    ]
    locations = compute_locations(FEATURE_SIZES, STRIDES, OFFSET)
    for logits, raw, centers, stride in zip(*maps[:2], locations, STRIDES, strict=True):
        raw.mul_(0.2).add_(2.5)
        boxes = decode_ltrb(centers, raw.relu().flatten(2)[0].T * stride)
        is_outside = ((boxes < 0) | (boxes > 384)).any(1)
        logits.flatten(2)[:, :, is_outside] = -20
    return maps


def test_detections_are_equal_if_no_box_extends_beyond_the_image():
    ours, theirs = build_both(Detectron2, our_thresh=0.01, their_thresh=0.01, topk=300)
    maps = draw_maps_with_boxes_inside()
    our_result, their_result = infer(ours, maps), infer(theirs, maps)
    ours.model.postprocessor.nms_thresh_test = 1
    assert len(our_result) == 100
    assert (
        our_result.scores.min() < infer(ours, maps).scores.min()
    )  # Without NMS, scores are higher.
    assert_same_as_theirs(our_result, their_result)


def make_resnet_cfg():
    """Make the config of a thin ResNet-50 with an FPN, and a head without scales."""
    cfg = make_head_cfg(OFFSET, keep=100_000, nms=1.0)
    cfg.MODEL.BACKBONE.NAME = "build_fcos_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FCOS.USE_SCALE = False
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = 0.0
    return cfg


def test_a_whole_model_with_a_resnet_has_the_same_candidates():
    cfg = make_resnet_cfg()
    torch.manual_seed(0)
    theirs = Detectron2.build(cfg)
    theirs.set_score_thresh(0)
    draw_weights(theirs)
    ours = Ours.build(cfg)
    ours.model.backbone.load_state_dict(theirs.model.backbone.state_dict())
    copy_head(theirs, ours.model.head)
    for our_result, their_result in detect_with_both(ours, theirs, draw_images()):
        assert len(our_result) > 1000
        assert our_result.scores.std() > 0.05
        assert_same_as_theirs(our_result, their_result)


# Known differences between detectron2 and fcos_d2.


def find_their_positives(theirs, boxes):
    """Return whether each location may predict each box, as (M, R) bool."""
    return theirs.model._match_anchors(Boxes(boxes), make_their_anchors(theirs)) > 0


def test_difference_a_distance_equal_to_a_border_is_positive_but_not_in_detectron2():
    ours, theirs = build_both(Detectron2)
    # The box is 128 x 80 around (164, 164), a location of P3 but not of P4. At x = 164, the left
    # and right sides are 64 pixels away.
    boxes = [torch.tensor([[100.0, 124.0, 228.0, 204.0]]), torch.zeros(0, 4)]
    sizes = [height * width for height, width in FEATURE_SIZES]
    # Positive on P3 are x = 164 and y = 156, 164, 172; on P4, x and y = 152, 168, 184.
    both = find_our_matched_idxs(ours, make_batch(boxes))[0].split(sizes)
    assert [(level >= 0).sum().item() for level in both] == [3, 9, 0, 0, 0]
    theirs_on_levels = find_their_positives(theirs, boxes[0])[0].split(sizes)
    assert [level.sum().item() for level in theirs_on_levels] == [0, 9, 0, 0, 0]


def test_difference_the_smaller_area_wins_also_if_detectron2_rounds_areas_to_the_same_value():
    ours, theirs = build_both(Detectron2)
    large, small = [158.5, 159.5, 169.5, 168.5], [158.0, 160.0, 170.0, 168.0]  # 99, 96
    cell = 20 * FEATURE_SIZES[0][1] + 20  # location (164, 164) of P3 is inside both
    assert torch.tensor(1e8) - 99 == torch.tensor(1e8) - 96
    their_areas, our_areas = [], []
    for boxes in (torch.tensor([large, small]), torch.tensor([small, large])):
        batch = make_batch([boxes, torch.zeros(0, 4)])
        _, (their_boxes, _) = theirs.assign(batch)
        their_areas.append((their_boxes[cell, 2:] - their_boxes[cell, :2]).prod().item())
        matched = boxes[find_our_matched_idxs(ours, batch)[0, cell]]
        our_areas.append((matched[2:] - matched[:2]).prod().item())
    assert our_areas == [96, 96]
    assert sorted(their_areas) == [96, 99]  # In detectron2, the first box wins.


def test_difference_boxes_of_more_than_1e8_square_pixels_have_positives():
    ours, theirs = build_both(Detectron2)
    boxes = torch.tensor([[-4900.0, -4900.0, 5284.0, 5284.0]])
    # The box is around (192, 192), the middle location of P7. All 3 x 3 locations of P7 are within
    # 1.5 strides of it.
    matched = find_our_matched_idxs(ours, make_batch([boxes, torch.zeros(0, 4)]))
    assert (matched >= 0).sum() == 9
    assert find_their_positives(theirs, boxes).sum() == 0


def test_difference_our_normalizer_does_not_depend_on_earlier_batches():
    ours, theirs = build_both(Detectron2)
    boxes = draw_boxes((30, 20))
    assert_peers_rules_agree(boxes, OFFSET)
    batch = make_batch(boxes)
    inputs = make_inputs(draw_images(), batch.instances)
    num_positives = (find_our_matched_idxs(ours, batch) >= 0).sum().item()
    first, second = (ours.model(inputs)["loss_fcos_cls"] for _ in range(2))
    assert first == second
    with EventStorage():
        their_first, their_second = [theirs.model(inputs)["loss_fcos_cls"] for _ in range(2)]
    # Their normalizer is a moving average that starts at 300.
    normalizer = 0.9 * 300 + 0.1 * num_positives
    assert their_first.item() == pytest.approx(first.item() * num_positives / normalizer, rel=1e-4)
    normalizer = 0.9 * normalizer + 0.1 * num_positives
    assert their_second.item() == pytest.approx(first.item() * num_positives / normalizer, rel=1e-4)


def test_difference_our_threshold_does_not_depend_on_centerness():
    # The class score is .5 and the center-ness .1. detectron2 compares sqrt(.05) = .22 with the
    # threshold .3, and we compare .5.
    ours, theirs = build_both(Detectron2, our_thresh=0.3, their_thresh=0.3)
    for predictor in (ours.model.head.cls_logits, find_predictor(theirs, "cls_logits")):
        make_constant(predictor, 0)
    for predictor in (ours.model.head.centerness, find_predictor(theirs, "centerness")):
        make_constant(predictor, -math.log(9))
    for our_result, their_result in detect_with_both(ours, theirs, draw_images()):
        assert our_result.scores.tolist() == pytest.approx([0.05**0.5] * 100)
        assert len(their_result) == 0


def test_difference_a_box_that_extends_beyond_the_image_suppresses_no_box_of_another_class():
    ours, theirs = build_both(Detectron2)
    cls_logits = [torch.full((1, NUM_CLASSES, *size), -20.0) for size in FEATURE_SIZES]
    raw_ltrb = [torch.zeros(1, 4, *size) for size in FEATURE_SIZES]
    # The locations of P3 are (356, 356) and (4, 4). Along x and y, the boxes are from 324 to 384
    # and from -56 to 4.
    raw_ltrb[0][0, :, 44, 44] = torch.tensor([4, 4, 3.5, 3.5])
    raw_ltrb[0][0, :, 0, 0] = torch.tensor([7.5, 7.5, 0, 0])
    cls_logits[0][0, 0, 44, 44] = 2
    cls_logits[0][0, 1, 0, 0] = 3
    maps = [cls_logits, raw_ltrb, [torch.full((1, 1, *size), 5.0) for size in FEATURE_SIZES]]
    # Their class-wise NMS moves the box of class 1 by 384 + 1 pixels, to 329 .. 389, where it
    # overlaps the box of class 0.
    assert infer(theirs, maps).pred_classes.tolist() == [1]
    our_result = infer(ours, maps)
    assert our_result.pred_classes.tolist() == [1, 0]
    assert our_result.pred_boxes.tensor.tolist() == [[0, 0, 4, 4], [324, 324, 384, 384]]


def test_difference_boxes_in_the_padding_are_removed_before_the_best_are_selected():
    # detectron2 selects the best 20 boxes, and then drops those in the padding.
    ours, theirs = build_both(Detectron2, keep=20)
    for our_result, their_result in detect_with_both(ours, theirs, draw_images()):
        assert len(our_result) == 20
        assert len(their_result) < 20


def test_difference_our_inference_does_not_change_the_maps():
    ours, theirs = build_both(Detectron2)
    images = ImageList(torch.zeros(1, 3, *PADDED_SIZE), [PADDED_SIZE])
    for peer, is_unchanged in ((ours, True), (theirs, False)):
        maps = draw_maps_with_boxes_inside()
        features = [x[:, :1] for x in maps[0]]
        peer.model.forward_inference(images, features, peer.join_maps(maps))
        same = [
            torch.equal(x, y)
            for x, y in zip(maps[2], draw_maps_with_boxes_inside()[2], strict=True)
        ]
        assert same == [is_unchanged] * 5
