"""Intermediate results that other projects read from an FCOS."""

import copy

import torch
from detectron2.modeling import build_model
from tiny import random_input, tiny_cfg


def build_model_and_features():
    torch.manual_seed(0)
    model = build_model(tiny_cfg("MODEL.FCOS.PRIOR_PROB", 0.2))
    images = model.preprocess_image([random_input(3), random_input(2, seed=1)])
    maps = model.backbone(images.tensor)
    return model, [maps[name] for name in model.head_in_features], images.image_sizes


def test_the_features_of_both_towers_are_available():
    model, features, _ = build_model_and_features()
    predictions = model.dense_head.predict(features, with_tower_features=True)
    for level, feature in enumerate(predictions.cls_features):
        assert torch.equal(model.head.cls_logits(feature), predictions.cls_logits[level])
        assert predictions.box_features[level].shape == feature.shape
    assert model.dense_head.predict(features).cls_features is None


def test_the_targets_of_each_location_are_available():
    model, features, sizes = build_model_and_features()
    instances = [random_input(3)["instances"], random_input(2, seed=1)["instances"]]
    dense_head = model.dense_head
    targets = dense_head.assign(dense_head.predict(features), instances, sizes)
    labels, matched = targets.labels(num_classes=5), targets.matched_idxs()  # (N, R)
    classes = torch.cat([x.gt_classes for x in instances])
    assert (matched >= 0).any(dim=1).all()
    assert torch.equal(labels, torch.where(matched >= 0, classes[matched], 5))


def test_candidates_before_suppression_are_available():
    model, features, sizes = build_model_and_features()
    predictions = model.dense_head.predict(features)
    candidates = model.postprocessor.candidates(predictions)
    locations = torch.cat(model.levels.compute_locations(predictions.feature_sizes))
    x, y = locations[candidates.location_idxs].unbind(1)
    x1, y1, x2, y2 = candidates.boxes.unbind(1)
    assert ((x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)).all()
    kept = model.postprocessor.suppress(candidates, sizes)
    assert [len(x) for x in kept] == [100, 100]
    assert len(candidates) > 200


def test_a_teacher_predicts_without_gradients():
    student, features, _ = build_model_and_features()
    teacher = copy.deepcopy(student).eval()
    with torch.no_grad():
        targets = teacher.dense_head.predict(features)
    predictions = student.dense_head.predict(features)
    pairs = zip(predictions.cls_logits, targets.cls_logits, strict=True)
    loss = sum((a.sigmoid() - b.sigmoid() + 0.1).square().sum() for a, b in pairs)
    loss.backward()
    assert not any(x.requires_grad for x in targets.cls_logits)
    assert student.head.cls_logits.weight.grad.any()
    assert teacher.head.cls_logits.weight.grad is None
