"""Our FCOS with the weights of detectron2's own FCOS is it, but for the differences listed last."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, build_model, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.meta_arch import fcos as detectron2_fcos
from detectron2.structures import Boxes, ImageList
from detectron2.utils.events import EventStorage
from parity_models import (
    CHANNELS,
    FEATURE_SIZES,
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
from tiny import predictions_of

from fcos_d2 import FCOS
from fcos_d2.config import add_fcos_config
from fcos_d2.modeling.levels import compute_locations, decode_ltrb

OFFSET = 0.5
NAMES = {
    "cls_subnet": "cls_tower",
    "bbox_subnet": "bbox_tower",
    "cls_score": "cls_logits",
    "bbox_pred": "bbox_pred",
    "ctrness": "centerness",
}


def build_theirs(backbone, **kwargs):
    head = detectron2_fcos.FCOSHead(
        input_shape=list(backbone.output_shape().values()),
        num_classes=NUM_CLASSES,
        conv_dims=[CHANNELS] * NUM_CONVS,
        norm="GN",
    )
    draw_weights(head, head.bbox_pred)
    return detectron2_fcos.FCOS(
        backbone=backbone,
        head=head,
        num_classes=NUM_CLASSES,
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[1.0, 1.0, 1.0],
        **kwargs,
    )


def build_both(radius=1.5, our_thresh=0.05, their_thresh=0.05**0.5, topk=1000, keep=100, nms=0.6):
    """(ours, theirs): one backbone, the same weights."""
    torch.manual_seed(0)
    options = {
        "test_topk_candidates": topk,
        "test_nms_thresh": nms,
        "max_detections_per_image": keep,
    }
    theirs = build_theirs(
        SampledPyramid(), center_sampling_radius=radius, test_score_thresh=their_thresh, **options
    )
    ours = build_ours(
        theirs.backbone,
        theirs.head,
        NAMES,
        OFFSET,
        radius,
        score_thresh_test=our_thresh,
        topk_candidates_test=topk,
        nms_thresh_test=nms,
        detections_per_image=keep,
    )
    return ours, theirs


def their_anchors(theirs):
    return theirs.anchor_generator([torch.zeros(1, 1, *size) for size in FEATURE_SIZES])


def losses_of_both(ours, theirs, instances):
    """Theirs with the moving average of its normaliser settled at the number of positives."""
    num_positives = (our_matched_idxs(ours, instances) >= 0).sum().item()
    theirs.loss_normalizer = max(num_positives, 1)
    with EventStorage():
        their_losses = theirs(make_inputs(draw_images(), instances))
    assert theirs.loss_normalizer == pytest.approx(max(num_positives, 1))
    return ours(make_inputs(draw_images(), instances)), their_losses


def assert_same_gradients(ours, theirs, names):
    """Of the parameters of the head under these of our names."""
    grads = renamed({name: p.grad for name, p in theirs.head.named_parameters()}, NAMES)
    for name, parameter in ours.head.named_parameters():
        if name.startswith(names):
            assert_close_in_norm(parameter.grad, grads[name], rtol=1e-4)


def test_locations_are_equal():
    centers = [anchors.get_centers() for anchors in their_anchors(build_both()[1])]
    for ours, theirs in zip(
        compute_locations(FEATURE_SIZES, STRIDES, OFFSET), centers, strict=True
    ):
        assert torch.equal(ours, theirs)


def test_raw_outputs_are_equal():
    ours, theirs = build_both()
    images = theirs.preprocess_image(make_inputs(draw_images()))
    their_predictions = theirs.head(list(theirs.backbone(images.tensor).values()))
    assert torch.cat([x.flatten() for x in their_predictions[0]]).std() > 0.3  # no constants
    for our_maps, their_maps in zip(
        predict(ours, draw_images())[:3], their_predictions, strict=True
    ):
        torch.testing.assert_close(our_maps, their_maps, rtol=0, atol=1e-5)


@pytest.mark.parametrize("radius", [1.5, 2.5])
@pytest.mark.parametrize("counts", [(30, 20), (25, 0), (0, 0)])
def test_targets_are_equal(counts, radius):
    ours, theirs = build_both(radius)
    boxes = draw_boxes(counts)
    assert_peers_rules_agree(boxes, OFFSET)
    instances = make_instances(boxes)
    labels, their_boxes = theirs.label_anchors(their_anchors(theirs), instances)
    matched = our_matched_idxs(ours, instances)
    levels = (matched >= 0).split([height * width for height, width in FEATURE_SIZES], dim=1)
    assert [x.any(1).tolist() for x in levels] == [[count > 0 for count in counts]] * 5
    for image, found in enumerate(matched):
        is_positive = found >= 0
        assert torch.equal(is_positive, labels[image] != NUM_CLASSES)
        owners = found[is_positive]
        assert torch.equal(instances[image].gt_classes[owners], labels[image][is_positive])
        assert torch.equal(boxes[image][owners], their_boxes[image][is_positive])


@pytest.mark.parametrize("counts", [(30, 20), (25, 0), (0, 0)])
def test_class_and_centerness_losses_are_equal(counts):
    ours, theirs = build_both()
    boxes = draw_boxes(counts)
    assert_peers_rules_agree(boxes, OFFSET)
    our_losses, their_losses = losses_of_both(ours, theirs, make_instances(boxes))
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
    ours, theirs = build_both()
    boxes = draw_boxes((30, 20))
    assert_peers_rules_agree(boxes, OFFSET)
    our_losses, their_losses = losses_of_both(ours, theirs, make_instances(boxes))
    our_losses[loss].backward()
    their_losses[loss].backward()
    assert_same_gradients(ours, theirs, branch)


def test_box_loss_is_equal_but_for_the_weighting():
    ours, theirs = build_both()
    boxes = draw_boxes((30, 20))
    assert_peers_rules_agree(boxes, OFFSET)
    instances = make_instances(boxes)
    losses, centerness = our_box_losses(ours, predict(ours, draw_images()), instances)
    our_losses, their_losses = losses_of_both(ours, theirs, instances)
    our_loss, their_loss = our_losses["loss_fcos_loc"], their_losses["loss_fcos_loc"]
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
    our_losses, their_losses = losses_of_both(ours, theirs, instances)
    assert our_losses.keys() == their_losses.keys()
    for name, loss in their_losses.items():
        torch.testing.assert_close(our_losses[name], loss, rtol=1e-4, atol=0)
    sum(our_losses.values()).backward()
    sum(their_losses.values()).backward()
    assert_same_gradients(ours, theirs, tuple(NAMES.values()))


@torch.no_grad()
def detect_with_both(ours, theirs, images):
    """For each image our and their Instances."""
    results = [model.eval()(make_inputs(images)) for model in (ours, theirs)]
    return [(x["instances"], y["instances"]) for x, y in zip(*results, strict=True)]


def assert_same_as_theirs(ours, theirs):
    assert_same_detections(ours, theirs.pred_boxes.tensor, theirs.scores, theirs.pred_classes)


@pytest.mark.parametrize("topk", [150, 1000])
def test_candidates_are_equal_without_a_threshold(topk):
    # No IoU is above 1: what NMS is given comes out, clipped and without empty boxes by both.
    ours, theirs = build_both(our_thresh=0, their_thresh=0, topk=topk, keep=100_000, nms=1)
    for our_result, their_result in detect_with_both(ours, theirs, draw_images()):
        assert len(our_result) > topk
        assert_same_as_theirs(our_result, their_result)


def test_candidates_are_equal_where_the_two_thresholds_mean_the_same():
    # Centre-ness 1 everywhere: class score > .3 and its root > sqrt(.3).
    ours, theirs = build_both(our_thresh=0.3, their_thresh=0.3**0.5, keep=100_000, nms=1)
    for predictor in (ours.head.centerness, theirs.head.ctrness):
        make_constant(predictor, 100)
    for our_result, their_result in detect_with_both(ours, theirs, draw_images()):
        assert 0.3**0.5 < our_result.scores.min() < 0.31**0.5  # the threshold cut
        assert_same_as_theirs(our_result, their_result)


def predictions_for(model, maps):
    return predictions_of(maps) if isinstance(model, FCOS) else maps


def infer(model, maps):
    """Detections of one image of 384 x 384 from raw maps, which are spared detectron2's changes."""
    images = ImageList(torch.zeros(1, 3, 384, 384), [(384, 384)])
    features = [torch.zeros(1, 1, *size) for size in FEATURE_SIZES]
    (result,) = model.forward_inference(
        images, features, predictions_for(model, [[x.clone() for x in y] for y in maps])
    )
    return result


def draw_maps_with_boxes_inside():
    """Raw maps of one image: what would decode to a box that sticks out scores nothing."""
    generator = torch.Generator().manual_seed(0)
    maps = [
        [torch.randn(1, channels, *x, generator=generator) for x in FEATURE_SIZES]
        for channels in (NUM_CLASSES, 4, 1)
    ]
    locations = compute_locations(FEATURE_SIZES, STRIDES, OFFSET)
    for logits, raw, centers, stride in zip(*maps[:2], locations, STRIDES, strict=True):
        raw.mul_(0.2).add_(2.5)
        boxes = decode_ltrb(centers, raw.relu().flatten(2)[0].T * stride)
        sticks_out = ((boxes < 0) | (boxes > 384)).any(1)
        logits.flatten(2)[:, :, sticks_out] = -20
    return maps


def test_detections_are_equal_where_no_box_sticks_out_of_the_image():
    ours, theirs = build_both(our_thresh=0.01, their_thresh=0.01, topk=300)
    maps = draw_maps_with_boxes_inside()
    our_result, their_result = infer(ours, maps), infer(theirs, maps)
    ours.postprocessor.nms_thresh_test = 1
    assert len(our_result) == 100
    assert our_result.scores.min() < infer(ours, maps).scores.min()  # NMS made room for others
    assert_same_as_theirs(our_result, their_result)


def resnet_config():
    """A thin ResNet-50 with an FPN, and our head as the name map wants it."""
    cfg = get_cfg()
    add_fcos_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "FCOS"
    cfg.MODEL.BACKBONE.NAME = "build_fcos_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = CHANNELS
    cfg.MODEL.FCOS.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.FCOS.NUM_CLS_CONVS = cfg.MODEL.FCOS.NUM_BOX_CONVS = NUM_CONVS
    cfg.MODEL.FCOS.USE_SCALE = False
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.FCOS.NMS_THRESH_TEST = 1.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 100_000
    cfg.MODEL.PIXEL_MEAN = [0.0, 0.0, 0.0]
    cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
    return cfg


def test_whole_resnet_fpn_model_gives_the_same_candidates():
    cfg = resnet_config()
    torch.manual_seed(0)
    backbone = FPN(
        bottom_up=build_resnet_backbone(cfg, ShapeSpec(channels=3)),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=CHANNELS,
        top_block=LastLevelP6P7(CHANNELS, CHANNELS, in_feature="p5"),
    )
    theirs = build_theirs(
        backbone, test_score_thresh=0, test_nms_thresh=1, max_detections_per_image=100_000
    )
    ours = build_model(cfg)
    ours.backbone.load_state_dict(backbone.state_dict())
    ours.head.load_state_dict(renamed(theirs.head.state_dict(), NAMES))
    for our_result, their_result in detect_with_both(ours, theirs, draw_images()):
        assert len(our_result) > 1000
        assert our_result.scores.std() > 0.05
        assert_same_as_theirs(our_result, their_result)


# Known differences: what detectron2 does, and what we do.


def their_positives(theirs, boxes):
    """(M, R) which locations want which box, before one of them is chosen."""
    return theirs._match_anchors(Boxes(boxes), their_anchors(theirs)) > 0


def test_difference_border_distance_is_positive_on_both_levels_and_nowhere_in_detectron2():
    ours, theirs = build_both()
    # 128 x 80 about (164, 164), a location of P3 but not of P4: the sides are 64 away at x = 164.
    boxes = [torch.tensor([[100.0, 124.0, 228.0, 204.0]]), torch.zeros(0, 4)]
    sizes = [height * width for height, width in FEATURE_SIZES]
    # P3: x = 164 alone is near enough, y = 156, 164, 172. P4: x and y = 152, 168, 184.
    both = our_matched_idxs(ours, make_instances(boxes))[0].split(sizes)
    assert [(level >= 0).sum().item() for level in both] == [3, 9, 0, 0, 0]
    theirs_on_levels = their_positives(theirs, boxes[0])[0].split(sizes)
    assert [level.sum().item() for level in theirs_on_levels] == [0, 9, 0, 0, 0]


def test_difference_the_smaller_area_wins_also_where_detectron2s_float32_cannot_tell():
    ours, theirs = build_both()
    large, small = [158.5, 159.5, 169.5, 168.5], [158.0, 160.0, 170.0, 168.0]  # 99, 96
    cell = 20 * FEATURE_SIZES[0][1] + 20  # location (164, 164) of P3 is inside both
    assert torch.tensor(1e8) - 99 == torch.tensor(1e8) - 96
    their_areas, our_areas = [], []
    for boxes in (torch.tensor([large, small]), torch.tensor([small, large])):
        instances = make_instances([boxes, torch.zeros(0, 4)])
        _, (their_boxes, _) = theirs.label_anchors(their_anchors(theirs), instances)
        their_areas.append((their_boxes[cell, 2:] - their_boxes[cell, :2]).prod().item())
        matched = boxes[our_matched_idxs(ours, instances)[0, cell]]
        our_areas.append((matched[2:] - matched[:2]).prod().item())
    assert our_areas == [96, 96]
    assert sorted(their_areas) == [96, 99]  # whichever is listed first


def test_difference_boxes_of_more_than_1e8_square_pixels_have_positives():
    ours, theirs = build_both()
    boxes = torch.tensor([[-4900.0, -4900.0, 5284.0, 5284.0]])
    # About P7's middle location, (192, 192): all of its 3 x 3 are within 1.5 strides.
    matched = our_matched_idxs(ours, make_instances([boxes, torch.zeros(0, 4)]))
    assert (matched >= 0).sum() == 9
    assert their_positives(theirs, boxes).sum() == 0


def test_difference_our_normaliser_has_no_memory():
    ours, theirs = build_both()
    boxes = draw_boxes((30, 20))
    assert_peers_rules_agree(boxes, OFFSET)
    inputs = make_inputs(draw_images(), make_instances(boxes))
    num_positives = (our_matched_idxs(ours, make_instances(boxes)) >= 0).sum().item()
    first, second = ours(inputs)["loss_fcos_cls"], ours(inputs)["loss_fcos_cls"]
    assert first == second
    with EventStorage():
        their_first, their_second = [theirs(inputs)["loss_fcos_cls"] for _ in range(2)]
    # A moving average that begins at 300.
    normalizer = 0.9 * 300 + 0.1 * num_positives
    assert their_first.item() == pytest.approx(first.item() * num_positives / normalizer, rel=1e-4)
    normalizer = 0.9 * normalizer + 0.1 * num_positives
    assert their_second.item() == pytest.approx(first.item() * num_positives / normalizer, rel=1e-4)


def test_difference_our_threshold_does_not_count_centerness():
    # Class .5, centre-ness .1: detectron2 asks whether sqrt(.05) = .22 > .3, we whether .5 > .3.
    ours, theirs = build_both(our_thresh=0.3, their_thresh=0.3)
    for predictor in (ours.head.cls_logits, theirs.head.cls_score):
        make_constant(predictor, 0)
    for predictor in (ours.head.centerness, theirs.head.ctrness):
        make_constant(predictor, -math.log(9))
    for our_result, their_result in detect_with_both(ours, theirs, draw_images()):
        assert our_result.scores.tolist() == pytest.approx([0.05**0.5] * 100)
        assert len(their_result) == 0


def test_difference_a_box_left_of_the_image_hides_none_of_another_class():
    ours, theirs = build_both()
    cls_logits = [torch.full((1, NUM_CLASSES, *size), -20.0) for size in FEATURE_SIZES]
    raw_ltrb = [torch.zeros(1, 4, *size) for size in FEATURE_SIZES]
    # P3's cells (44, 44) and (0, 0), (356, 356) and (4, 4): boxes 324 .. 384 and -56 .. 4, x and y.
    raw_ltrb[0][0, :, 44, 44] = torch.tensor([4, 4, 3.5, 3.5])
    raw_ltrb[0][0, :, 0, 0] = torch.tensor([7.5, 7.5, 0, 0])
    cls_logits[0][0, 0, 44, 44] = 2
    cls_logits[0][0, 1, 0, 0] = 3
    maps = [cls_logits, raw_ltrb, [torch.full((1, 1, *size), 5.0) for size in FEATURE_SIZES]]
    # Class-wise NMS moves class 1 by 384 + 1 pixels: to 329 .. 389, onto the box of class 0.
    assert infer(theirs, maps).pred_classes.tolist() == [1]
    our_result = infer(ours, maps)
    assert our_result.pred_classes.tolist() == [1, 0]
    assert our_result.pred_boxes.tensor.tolist() == [[0, 0, 4, 4], [324, 324, 384, 384]]


def test_difference_boxes_in_the_padding_take_no_place_among_the_detections():
    # Of the best 20, detectron2 drops those that lie in the padding; we drop first.
    ours, theirs = build_both(keep=20)
    for our_result, their_result in detect_with_both(ours, theirs, draw_images()):
        assert len(our_result) == 20
        assert len(their_result) < 20


def test_difference_our_inference_leaves_the_maps_as_they_were():
    ours, theirs = build_both()
    images = ImageList(torch.zeros(1, 3, 384, 384), [(384, 384)])
    for model, is_untouched in ((ours, True), (theirs, False)):
        maps = draw_maps_with_boxes_inside()
        model.forward_inference(images, [x[:, :1] for x in maps[0]], predictions_for(model, maps))
        same = [
            torch.equal(x, y)
            for x, y in zip(maps[2], draw_maps_with_boxes_inside()[2], strict=True)
        ]
        assert same == [is_untouched] * 5
