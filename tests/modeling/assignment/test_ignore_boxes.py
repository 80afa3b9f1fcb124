"""Ignore boxes: exactly the locations inside them are no longer negatives."""

import math

import pytest
import torch
from detectron2.structures import Boxes
from fvcore.nn import sigmoid_focal_loss
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import (
    MAP_SIZES,
    STRIDES,
    predictions_of,
    random_input,
    random_instances,
    random_maps,
    seeded_model,
)

from fcos_d2.modeling.assignment.ignore_boxes import locations_in_boxes
from fcos_d2.modeling.levels import Levels, compute_locations, flatten_levels

IMAGE_SIZES = [(96, 128)] * 2


def dense_locations_in_boxes(boxes, sizes, strides, offset):
    """Return whether each location of an image is in at least one box, as (R,) bool."""
    x, y = torch.cat(compute_locations(sizes, strides, offset))[:, None].unbind(-1)
    x1, y1, x2, y2 = boxes.unbind(1)
    return ((x > x1) & (x < x2) & (y > y1) & (y < y2)).any(1)


coordinate = st.one_of(st.floats(-30, 300, width=32), st.integers(-8, 80).map(lambda i: i * 4.0))
box = st.tuples(coordinate, coordinate, coordinate, coordinate)


@settings(max_examples=200, deadline=None)
@given(
    boxes_per_image=st.lists(st.lists(box, max_size=6), min_size=1, max_size=3),
    strides=st.sampled_from([STRIDES, [12, 14, 23], [8]]),
    offset=st.sampled_from([0.5, 0.0]),
    image_size=st.tuples(st.integers(1, 256), st.integers(1, 256)),
)
def test_locations_in_boxes_equal_the_dense_rule(boxes_per_image, strides, offset, image_size):
    # Boxes may reach beyond the image, overlap, and have no extent or a negative one.
    sizes = [tuple(math.ceil(side / stride) for side in image_size) for stride in strides]
    boxes = [torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in boxes_per_image]
    is_inside = locations_in_boxes([Boxes(b) for b in boxes], sizes, Levels(strides, offset))
    for image, b in enumerate(boxes):
        assert torch.equal(is_inside[image], dense_locations_in_boxes(b, sizes, strides, offset))


@pytest.mark.parametrize("radius", [1.5, 0.0])
def test_class_loss_and_gradient_equal_a_dense_focal_loss_without_the_ignored_locations(radius):
    model = seeded_model("MODEL.FCOS.CENTER_SAMPLING_RADIUS", radius)
    instances = [random_instances(n, 96, 128, seed=n) for n in (3, 2)]
    targets = model.assigner(instances, MAP_SIZES)
    ignore_boxes = [torch.zeros(0, 4), torch.tensor([[0.0, 0, 70, 70], [40, 40, 128, 96]])]
    cls_logits = [x.requires_grad_() for x in random_maps(5)]
    other_maps = [[x.abs() for x in random_maps(channels)] for channels in (4, 1)]

    def compute_losses(ignore_boxes):
        predictions = predictions_of((cls_logits, *other_maps))
        return model.dense_head.compute_losses(predictions, instances, IMAGE_SIZES, ignore_boxes)

    losses = compute_losses([Boxes(b) for b in ignore_boxes])
    gradients = torch.autograd.grad(losses["loss_fcos_cls"], cls_logits)

    is_positive = targets.matched_idxs() >= 0
    where = targets.is_positive
    one_hot = torch.zeros(2, 257, 5)
    one_hot.flatten(0, 1)[targets.flat_location_idxs[where], targets.classes[where]] = 1
    is_inside = torch.stack(
        [dense_locations_in_boxes(b, MAP_SIZES, STRIDES, 0.5) for b in ignore_boxes]
    )
    assert (is_inside & is_positive).any()
    assert (is_inside & ~is_positive).any()
    is_counted = ~is_inside | is_positive
    loss = sigmoid_focal_loss(flatten_levels(cls_logits), one_hot, alpha=0.25, gamma=2.0)
    expected = (loss * is_counted[..., None]).sum() / where.sum()
    torch.testing.assert_close(losses["loss_fcos_cls"], expected, rtol=1e-5, atol=0)
    for a, b in zip(gradients, torch.autograd.grad(expected, cls_logits), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    # The other losses do not depend on ignore boxes.
    without = compute_losses(None)
    other_losses = set(losses) - {"loss_fcos_cls"}
    assert all(torch.equal(losses[name], without[name]) for name in other_losses)
    # An ignore box that contains only positive locations does not change the class loss.
    x, y = torch.cat(compute_locations(MAP_SIZES, STRIDES))[is_positive[0].nonzero()[0, 0]].tolist()
    around = [Boxes(torch.tensor([[x - 1, y - 1, x + 1, y + 1]])), Boxes(torch.zeros(0, 4))]
    inside = dense_locations_in_boxes(around[0].tensor, MAP_SIZES, STRIDES, 0.5)
    assert (is_positive[0] | ~inside).all()
    torch.testing.assert_close(compute_losses(around)["loss_fcos_cls"], without["loss_fcos_cls"])


def test_ignore_boxes_change_only_the_class_loss():
    model = seeded_model()
    inputs = [random_input(3, seed=0), random_input(0, seed=1)]
    plain = model(inputs)
    whole_image = Boxes(torch.tensor([[-1.0, -1.0, 200.0, 200.0]]))
    for ignored, is_less in ((Boxes(torch.zeros(0, 4)), False), (whole_image, True)):
        losses = model([inputs[0], {**inputs[1], "gt_ignore_boxes": ignored}])
        assert (losses["loss_fcos_cls"] < plain["loss_fcos_cls"]) == is_less
        if not is_less:
            assert losses["loss_fcos_cls"] == plain["loss_fcos_cls"]
        assert losses["loss_fcos_loc"] == plain["loss_fcos_loc"]
    # If all background is ignored, the class loss is 0 and has gradients of 0.
    losses = model([{**x, "gt_ignore_boxes": whole_image} for x in (inputs[1], inputs[1])])
    losses["loss_fcos_cls"].backward()
    assert losses["loss_fcos_cls"] == 0
    assert not model.head.cls_logits.weight.grad.any()


def test_training_needs_instances():
    with pytest.raises(AssertionError, match="annotations"):
        seeded_model()([{"image": random_input(0)["image"]}])
