"""FCOS as a proposal generator."""

import math

import pytest
import torch
from detectron2.modeling import build_backbone, build_proposal_generator
from detectron2.structures import Boxes, ImageList
from input_errors import input_error
from tiny import TWO_STAGES, build_pyramid, make_instances, random_instances, two_stage_cfg
from torchvision.ops import nms

from fcos_d2 import FCOSProposalGenerator
from fcos_d2.modeling import FCOSDenseHead, select_maps
from fcos_d2.modeling.proposal_generator import _to_proposals

SIZES = [(96, 128), (80, 100)]


def build(*opts):
    """Build a random generator, and the maps and sizes of two images."""
    torch.manual_seed(0)
    cfg = two_stage_cfg({"MODEL.FCOS.PRIOR_PROB": 0.2}, *opts)
    backbone = build_backbone(cfg)
    generator = build_proposal_generator(cfg, backbone.output_shape())
    with torch.no_grad():
        for predictor in (generator.head.cls_logits, generator.head.centerness):
            predictor.weight.mul_(30)
        features = backbone(torch.rand(2, 3, 96, 128))
    return generator, ImageList(torch.zeros(2, 3, 96, 128), SIZES), features


def find_proposals(predictions, levels, image, pre_nms_topk, post_nms_topk, nms_thresh=0.7):
    """Compute the proposals of one image level by level: the simple version."""
    boxes, scores = [], []
    locations = levels.compute_locations(predictions.feature_sizes, torch.device("cpu"))
    for level, (logits, raw, quality) in enumerate(
        zip(predictions.cls_logits, predictions.raw_ltrb, predictions.quality_logits, strict=True)
    ):
        num_classes = logits.shape[1]
        score = (logits[image].sigmoid() * quality[image].sigmoid()).sqrt()  # (K, Hi, Wi)
        score = score.flatten(1).T.flatten()  # (Hi*Wi*K,)
        order = score.argsort(descending=True, stable=True)[:pre_nms_topk]
        cells = order // num_classes
        ltrb = raw[image].flatten(1).T[cells].relu() * levels.strides[level]
        centers = locations[level][cells].repeat(1, 2)
        boxes.append(centers + ltrb * torch.tensor([-1, -1, 1, 1]))
        scores.append(score[order])
    boxes, scores = torch.cat(boxes), torch.cat(scores)
    height, width = SIZES[image]
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    is_kept = (boxes[:, :2] < boxes[:, 2:]).all(dim=1)
    boxes, scores = boxes[is_kept], scores[is_kept]
    keep = nms(boxes.double(), scores.double(), nms_thresh)[:post_nms_topk]
    return boxes[keep], scores[keep]


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("class_agnostic", [True, False])
def test_proposals_are_the_best_boxes_of_each_level_after_nms(is_training, class_agnostic):
    generator, images, features = build("MODEL.FCOS.CLASS_AGNOSTIC", class_agnostic)
    generator.train(is_training)
    with torch.no_grad():
        predictions = generator.dense_head.predict([features[x] for x in generator.in_features])
        gt_instances = [make_instances([], image_size=size) for size in SIZES]
        proposals, _ = generator(images, features, gt_instances if is_training else None)
    assert predictions.num_classes == (1 if class_agnostic else 5)
    numbers = (100, 40) if is_training else (50, 30)  # before and after NMS, in TWO_STAGES
    for i, found in enumerate(proposals):
        boxes, scores = find_proposals(predictions, generator.levels, i, *numbers)
        assert 10 < len(boxes) <= numbers[1]
        torch.testing.assert_close(found.proposal_boxes.tensor, boxes, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.objectness_logits, scores.logit(), rtol=1e-4, atol=1e-5)
        assert found.image_size == SIZES[i]


def test_logits_of_certain_proposals_are_finite():
    found = make_instances([[0, 0, 9, 9]] * 3)
    found.remove("gt_classes")
    found.pred_boxes, found.scores = found.gt_boxes, torch.tensor([1.0, 0.5, 0.0])
    found.remove("gt_boxes")
    logits = _to_proposals(found).objectness_logits
    assert logits.isfinite().all()
    limit = math.log(1e6)
    assert logits.tolist() == pytest.approx([limit, 0, -limit], rel=0.01)


@pytest.mark.parametrize("class_agnostic", [True, False])
def test_one_class_is_learned_and_the_annotations_keep_their_classes(class_agnostic):
    generator, images, features = build("MODEL.FCOS.CLASS_AGNOSTIC", class_agnostic)
    gt_instances = [random_instances(4, *size, seed=i) for i, size in enumerate(SIZES)]
    before = [x.gt_classes.clone() for x in gt_instances]
    _, losses = generator(images, features, gt_instances)
    assert all(map(torch.equal, [x.gt_classes for x in gt_instances], before))
    learned = [random_instances(4, *size, seed=i) for i, size in enumerate(SIZES)]
    for x in learned if class_agnostic else []:
        x.gt_classes = torch.zeros_like(x.gt_classes)
    dense_head = generator.dense_head
    predictions = dense_head.predict([features[x] for x in generator.in_features])
    assert losses == dense_head.compute_losses(predictions, learned, SIZES)
    assert list(losses) == ["loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"]


@pytest.mark.parametrize("is_training", [True, False])
def test_the_head_runs_once(is_training):
    generator, images, features = build()
    calls = []
    generator.head.register_forward_hook(lambda *_: calls.append(1))
    generator.train(is_training)(images, features, [random_instances(2, *x) for x in SIZES])
    assert len(calls) == 1


def test_without_annotations_there_are_no_losses_in_inference():
    generator, images, features = build()
    _, losses = generator.eval()(images, features, None)
    assert losses == {}
    with pytest.raises(AssertionError, match="annotations are missing"):
        generator.train()(images, features, None)


def test_proposals_have_no_gradient():
    generator, images, features = build()
    proposals, _ = generator(images, features, [random_instances(2, *x) for x in SIZES])
    assert not any(x.proposal_boxes.tensor.requires_grad for x in proposals)
    assert not any(x.objectness_logits.requires_grad for x in proposals)


def test_the_score_function_of_the_dense_head_is_kept():
    cfg = two_stage_cfg()
    shapes = build_backbone(cfg).output_shape()
    maps = select_maps(shapes, cfg.MODEL.FCOS.IN_FEATURES)
    dense_head = FCOSDenseHead.from_config(cfg, list(maps.values()), num_classes=1)
    dense_head.postprocessor.score_function = lambda scores, quality: scores
    generator = FCOSProposalGenerator(
        dense_head=dense_head, input_shape=shapes, head_in_features=list(maps)
    )
    for part in (generator.postprocessor, generator.train_postprocessor):
        assert part.score_function is dense_head.postprocessor.score_function


def test_wrong_values_are_reported_together():
    cfg = two_stage_cfg({"MODEL.RPN.NMS_THRESH": 1.5, "MODEL.RPN.POST_NMS_TOPK_TEST": 0})
    texts = ("MODEL.RPN.NMS_THRESH = 1.5", "MODEL.RPN.POST_NMS_TOPK_TEST = 0")
    with input_error(*texts, key="MODEL.RPN.POST_NMS_TOPK_TEST"):
        build_proposal_generator(cfg, build_backbone(cfg).output_shape())
    generator, *_ = build()
    with input_error("pre_nms_topk_train = 0", key="pre_nms_topk_train", value=0):
        FCOSProposalGenerator(
            dense_head=generator.dense_head,
            input_shape=build_pyramid()[0].output_shape(),
            head_in_features=generator.in_features,
            pre_nms_topk_train=0,
        )


def test_the_proposals_of_an_image_without_any_are_empty():
    generator, images, features = build()
    with torch.no_grad():
        generator.head.bbox_pred.weight.zero_()
        generator.head.bbox_pred.bias.fill_(-1)  # relu: all boxes are empty
    proposals, _ = generator.eval()(images, features)
    assert [len(x) for x in proposals] == [0, 0]
    assert isinstance(proposals[0].proposal_boxes, Boxes)


def test_the_tiny_config_covers_all_keys_of_the_generator():
    assert {f"MODEL.RPN.{x}_NMS_TOPK_{y}" for x in ("PRE", "POST") for y in ("TRAIN", "TEST")} <= (
        TWO_STAGES.keys()
    )
