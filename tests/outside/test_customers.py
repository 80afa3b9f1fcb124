"""
Small examples of models that other projects can build with the dense head.

The examples are a head with one more output, an assigner that uses predictions, and an exported
network.
"""

import pytest
import torch
from detectron2.modeling import build_model
from tiny import random_input, tiny_cfg
from torch import nn

from fcos_d2 import FCOSHead, FCOSLosses
from fcos_d2.modeling import (
    LocationTargets,
    LossTerm,
    LossTerms,
    flatten_levels,
    gather_locations,
)


class HeadWithColors(FCOSHead):
    """A head that predicts three more numbers from the box tower."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.color = nn.Conv2d(64, 3, kernel_size=1)

    def forward(self, features, levels=None, **kwargs):
        predictions = super().forward(features, levels, with_tower_features=True)
        colors = [self.color(x) for x in predictions.box_features]
        return predictions._replace(extra={"color": colors})


def color_loss(predictions, targets):
    """Compute the squared distance of the colors at positives from (1, 1, 1), as a loss term."""
    colors = gather_locations(predictions.extra["color"], targets.flat_location_idxs)  # (C, 3)
    distance = (colors - 1).square().sum(dim=1) * targets.weights
    return LossTerms({"loss_color": LossTerm(distance.sum(), "positives")}, {})


def with_colors(model):
    """Replace the head of a model by ``HeadWithColors``, and add the loss of the colors."""
    head = HeadWithColors(
        input_shape=[model.backbone.output_shape()[x] for x in model.head_in_features],
        num_classes=5,
        num_cls_convs=1,
        num_box_convs=1,
        prior_prob=0.2,
    )
    model.head = head
    model.losses = FCOSLosses(levels=model.levels, extra_terms=[color_loss])
    return model


def test_one_more_output_gets_a_loss_and_is_a_field_of_the_detections():
    torch.manual_seed(0)
    model = with_colors(build_model(tiny_cfg()))
    losses = model([random_input(3), random_input(0)])
    losses["loss_color"].backward()
    assert model.head.color.weight.grad.any()
    with torch.no_grad():
        detections = model.eval()([random_input(0)])[0]["instances"]
        images = model.preprocess_image([random_input(0)])
        features = [model.backbone(images.tensor)[x] for x in model.head_in_features]
        predictions = model.dense_head.predict(features)
        (kept,) = model.postprocessor.suppress(
            model.postprocessor.candidates(predictions), images.image_sizes
        )
    assert detections.color.shape == (100, 3)
    colors = flatten_levels(predictions.extra["color"])[0, kept.location_idxs]
    assert torch.equal(detections.color, colors)


def assign_to_most_confident(
    gt_instances, feature_sizes, *, image_sizes, ignore_boxes=None, predictions=None
):
    """Assign each box to the location with the highest score for its class."""
    scores = flatten_levels(predictions.cls_logits).detach()  # (N, R, K)
    classes = torch.cat([x.gt_classes for x in gt_instances])
    counts = torch.tensor([len(x) for x in gt_instances])
    images = torch.arange(len(gt_instances)).repeat_interleave(counts)
    locations = scores[images, :, classes].argmax(dim=1)
    assert all(x is not None for x in image_sizes)
    is_positive = torch.ones_like(images, dtype=torch.bool)
    return LocationTargets(
        images,
        locations,
        torch.zeros_like(images),
        torch.arange(len(images)),
        torch.full((len(images), 4), 8.0),
        is_positive.float(),
        is_positive,
        classes,
        len(gt_instances),
        scores.shape[1],
    )


def test_an_assigner_may_use_predictions():
    torch.manual_seed(0)
    model = build_model(tiny_cfg())
    model.assigner = assign_to_most_confident
    losses = model([random_input(1), random_input(1, seed=1)])
    sum(losses.values()).backward()
    assert all(x.grad.isfinite().all() for x in model.parameters())
    assert model.losses.observed.is_positive.sum() == 2


class Network(nn.Module):
    """A network whose inputs and outputs are tensors, for export."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        maps = self.model.backbone(images)
        features = [maps[name] for name in self.model.head_in_features]
        predictions = self.model.dense_head.predict(features)
        maps = (*predictions.cls_logits, *predictions.raw_ltrb, *predictions.quality_logits)
        return (*maps, *self.model.postprocessor.fixed_candidates(predictions))


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_backbone_head_and_selection_are_exported_for_images_of_all_sizes(norm):
    torch.manual_seed(0)
    network = Network(build_model(tiny_cfg("MODEL.RESNETS.NORM", norm))).eval()
    batch, height, width = (torch.export.Dim(x, min=2, max=64) for x in ("n", "h", "w"))
    # The coarsest map has more than one cell, because export treats sizes of 1 as constants.
    program = torch.export.export(
        network,
        (torch.rand(2, 3, 192, 256),),
        dynamic_shapes=({0: batch, 2: 32 * height, 3: 32 * width},),
    )
    for shape in ((3, 3, 320, 160), (2, 3, 288, 352)):
        images = torch.rand(shape)
        with torch.no_grad():
            for output, expected in zip(program.module()(images), network(images), strict=True):
                torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
