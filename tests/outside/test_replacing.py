"""Parts of other projects in an FCOS: by registry, by argument, or by attribute."""

from dataclasses import replace

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import Boxes
from input_errors import input_error
from tiny import random_input, tiny_cfg
from torch import nn

from fcos_d2 import (
    FCOS,
    HEAD_REGISTRY,
    TARGET_ASSIGNER_REGISTRY,
    DensePredictions,
    FCOSAssigner,
    FCOSDenseHead,
    FCOSLosses,
    FCOSPostProcessor,
)
from fcos_d2.modeling import LossTerm, LossTerms


@pytest.fixture
def register():
    """Return a function that registers a part for one test."""
    registered = []

    def add(registry, part):
        registry.register(part)
        registered.append((registry, part.__name__))

    yield add
    for registry, name in registered:
        del registry._obj_map[name]


def train_and_detect(cfg):
    torch.manual_seed(0)
    model = build_model(cfg)
    losses = model([random_input(3), random_input(2, seed=1)])
    sum(losses.values()).backward()
    with torch.no_grad():
        detections = model.eval()([random_input(0)])[0]["instances"]
    return model, losses, detections


class LinearHead(nn.Module):
    """A head of one 1x1 convolution that predicts no quality."""

    def __init__(self, cfg, input_shape, num_classes, predict_quality):
        super().__init__()
        self.num_classes, self.predict_quality = num_classes, predict_quality
        self.conv = nn.Conv2d(input_shape[0].channels, num_classes + 4, kernel_size=1)

    def forward(self, features):
        maps = [self.conv(x).split([self.num_classes, 4], dim=1) for x in features]
        cls_logits, raw_ltrb = map(list, zip(*maps, strict=True))
        return DensePredictions(cls_logits, raw_ltrb, None, extra={})


def test_a_head_is_found_by_its_name(register):
    register(HEAD_REGISTRY, LinearHead)
    opts = ("MODEL.FCOS.HEAD", "LinearHead", "MODEL.FCOS.BOX_QUALITY", "none")
    model, losses, detections = train_and_detect(tiny_cfg(*opts))
    assert set(losses) == {"loss_fcos_cls", "loss_fcos_loc"}
    assert model.head.conv.weight.grad.any()
    assert len(detections) > 10


def test_a_head_that_is_not_registered_is_an_error_with_the_most_similar_name():
    with input_error("'FCOSHead'", key="MODEL.FCOS.HEAD", value="FCOSHaed"):
        build_model(tiny_cfg("MODEL.FCOS.HEAD", "FCOSHaed"))


class HalfWeights(FCOSAssigner):
    """An assigner of the same locations with half the weights."""

    def __call__(self, *args, **kwargs):
        targets = super().__call__(*args, **kwargs)
        return targets._replace(weights=targets.weights / 2)


def test_an_assigner_is_found_by_its_name(register):
    register(TARGET_ASSIGNER_REGISTRY, HalfWeights)
    _, losses, _ = train_and_detect(tiny_cfg("MODEL.FCOS.TARGET_ASSIGNER", "HalfWeights"))
    _, usual, _ = train_and_detect(tiny_cfg())
    # The weights are half as large. Numerators and denominators of box and quality loss are halved,
    # but only the denominator of the class loss is.
    torch.testing.assert_close(losses["loss_fcos_ctr"], usual["loss_fcos_ctr"])
    torch.testing.assert_close(losses["loss_fcos_loc"], usual["loss_fcos_loc"])
    torch.testing.assert_close(losses["loss_fcos_cls"], usual["loss_fcos_cls"] * 2)


def decay_of_logits(predictions, targets):
    """Compute a loss term: a hundredth of the mean square of the class logits."""
    logits = torch.cat([x.flatten() for x in predictions.cls_logits])
    term = LossTerm(logits.square().sum() / 100, "logits")
    return LossTerms({"loss_decay": term}, {"logits": logits.new_full((), logits.numel())})


def cubic_mean(class_scores, quality):
    return (class_scores**2 * quality) ** (1 / 3)


class OwnFCOS(FCOS):
    """A meta-architecture with another loss and another score."""

    @classmethod
    def from_config(cls, cfg):
        parts = super().from_config(cfg)
        levels = parts["dense_head"].levels
        parts["dense_head"] = replace(
            parts["dense_head"],
            losses=FCOSLosses(cfg, levels, extra_terms=[decay_of_logits]),
            postprocessor=FCOSPostProcessor(cfg, levels, score_function=cubic_mean),
        )
        return parts


def test_a_loss_term_and_a_score_function_are_arguments(register):
    register(META_ARCH_REGISTRY, OwnFCOS)
    model, losses, detections = train_and_detect(tiny_cfg("MODEL.META_ARCHITECTURE", "OwnFCOS"))
    plain, usual, _ = train_and_detect(tiny_cfg())
    assert {name: x for name, x in losses.items() if name != "loss_decay"} == usual
    logits = torch.tensor(0.01).logit()  # the approximate initial value of all logits
    assert losses["loss_decay"].item() == pytest.approx(logits.square().item() / 100, rel=0.05)
    plain.load_state_dict(model.state_dict())
    plain.postprocessor.score_thresh_test = model.postprocessor.score_thresh_test = 0.0
    with torch.no_grad():
        scores, plain_scores = (m([random_input(0)])[0]["instances"].scores for m in (model, plain))
    assert not torch.equal(scores, plain_scores)
    assert len(detections) == 0  # with the default threshold


def test_a_head_that_is_set_as_an_attribute_is_used():
    model = build_model(tiny_cfg()).eval()
    nums_of_maps = []

    class CountingHead(nn.Module):
        def __init__(self, head):
            super().__init__()
            self.head = head

        def forward(self, features):
            nums_of_maps.append(len(features))
            return self.head(features)

    model.head = CountingHead(model.head)
    with torch.no_grad():
        model([random_input(0)])
    assert nums_of_maps == [5]


class NumberingDenseHead(FCOSDenseHead):
    """A dense head that numbers its detections."""

    def detect(self, predictions, image_sizes):
        detections = super().detect(predictions, image_sizes)
        for x in detections:
            x.set("number", torch.arange(len(x)))
        return detections


class OverriddenHooks(FCOS):
    """An FCOS that overrides detectron2's hooks and has another type of dense head."""

    @classmethod
    def from_config(cls, cfg):
        parts = super().from_config(cfg)
        return {**parts, "dense_head": NumberingDenseHead(**vars(parts["dense_head"]))}

    def forward_training(self, images, features, predictions, gt_instances):
        losses = super().forward_training(images, features, predictions, gt_instances)
        return {name: 2 * x for name, x in losses.items()}

    def forward_inference(self, images, features, predictions):
        return [x[:3] for x in super().forward_inference(images, features, predictions)]


def test_hooks_and_dense_head_of_a_subclass_are_called(register):
    register(META_ARCH_REGISTRY, OverriddenHooks)
    opts = ("MODEL.FCOS.PRIOR_PROB", 0.2)
    model, losses, detections = train_and_detect(
        tiny_cfg(*opts, "MODEL.META_ARCHITECTURE", "OverriddenHooks")
    )
    _, usual, _ = train_and_detect(tiny_cfg(*opts))
    assert losses == {name: 2 * x for name, x in usual.items()}
    assert detections.number.tolist() == [0, 1, 2]
    assert type(model.dense_head) is NumberingDenseHead


def test_crowds_are_not_background_for_an_assigner_that_does_not_use_ignore_boxes():
    torch.manual_seed(0)
    model, crowd = build_model(tiny_cfg()), Boxes(torch.tensor([[0.0, 0.0, 128.0, 96.0]]))
    sample = {**random_input(2), "gt_ignore_boxes": crowd}
    expected, assign = model([sample]), model.assigner
    model.assigner = lambda gt, sizes, **_: assign(gt, sizes)
    assert model([sample]) == expected
