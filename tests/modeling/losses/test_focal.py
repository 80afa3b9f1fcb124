"""The focal loss: examples computed by hand, and equality with fvcore's loss."""

import itertools
import math

import pytest
import torch
from fvcore.nn import sigmoid_focal_loss
from torch.nn.functional import logsigmoid

from fcos_d2.modeling.assignment.targets import LocationTargets
from fcos_d2.modeling.levels import flatten_levels
from fcos_d2.modeling.losses.focal import focal_loss_sum

NUM_CLASSES = 7
LEVEL_SIZES = [(6, 8), (3, 4)]
NUM_LOCATIONS = 60


def random_targets(num_images=2, num_pairs=20, seed=0):
    """Draw pairs; several may have the same location, but at most one of them is positive."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    start = 0
    for level, (height, width) in enumerate(LEVEL_SIZES):
        image = torch.randint(num_images, (num_pairs,), generator=generator)
        cell = torch.randint(height * width, (num_pairs,), generator=generator)
        idxs = (image * height * width + cell).tolist()
        is_first = torch.tensor([idxs.index(x) == i for i, x in enumerate(idxs)])
        coin = torch.rand(num_pairs, generator=generator) < 0.6
        classes = torch.randint(NUM_CLASSES, (num_pairs,), generator=generator)
        levels = torch.full_like(cell, level)
        parts.append((image, start + cell, levels, classes, is_first & coin))
        start += height * width
    image_idxs, location_idxs, level_idxs, classes, is_positive = map(
        torch.cat, zip(*parts, strict=True)
    )
    return LocationTargets(
        image_idxs,
        location_idxs,
        level_idxs,
        torch.arange(len(classes)),
        torch.ones(len(classes), 4),
        is_positive.float(),
        is_positive,
        classes,
        num_images,
        NUM_LOCATIONS,
    )


def one_pair_each(classes, is_positive, num_locations):
    """Make the targets of one image: its first locations have one pair each, the others none."""
    idxs = torch.arange(len(classes))
    return LocationTargets(
        idxs * 0,
        idxs,
        idxs * 0,
        idxs,
        torch.ones(len(idxs), 4),
        is_positive.float(),
        is_positive,
        classes,
        1,
        num_locations,
    )


def random_logits(num_images=2, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(num_images, NUM_CLASSES, h, w, generator=generator) * 4)
        .to(dtype)
        .requires_grad_()
        for h, w in LEVEL_SIZES
    ]


def focal_loss(logits, targets, alpha, gamma):
    return focal_loss_sum(logits, targets.labels(logits[0].shape[1]), alpha, gamma)


def one_hot_focal_loss(logits, targets, alpha, gamma):
    """Compute fvcore's focal loss on dense one-hot targets."""
    flat = flatten_levels(logits).flatten(0, 1).float()  # (N*R, K)
    one_hot = torch.zeros_like(flat)
    where = targets.is_positive
    one_hot[targets.flat_location_idxs[where], targets.classes[where]] = 1
    return sigmoid_focal_loss(flat, one_hot, alpha=alpha, gamma=gamma, reduction="sum")


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.9, 1.5)])
def test_focal_loss_and_gradient_equal_fvcore(alpha, gamma):
    targets = random_targets()
    logits, same_logits = random_logits(), random_logits()
    loss = focal_loss(logits, targets, alpha, gamma)
    expected = one_hot_focal_loss(same_logits, targets, alpha, gamma)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    (3 * loss).backward()
    (3 * expected).backward()
    for a, b in zip(logits, same_logits, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)


def test_focal_loss_gradient_equals_finite_differences():
    # The differences are in float64. fvcore computes in float32, which loses digits of confident
    # logits.
    def loss_of(x, is_positive):
        if is_positive:
            return -0.25 * (1 - x.sigmoid()) ** 2 * logsigmoid(x)
        return -0.75 * x.sigmoid() ** 2 * logsigmoid(-x)

    logits, targets, step = random_logits(), random_targets(), 1e-4
    focal_loss(logits, targets, 0.25, 2.0).backward()
    where = targets.is_positive & (targets.level_idxs == 0)
    location_idxs, classes = targets.flat_location_idxs[where], targets.classes[where]
    pairs = zip(location_idxs.tolist(), classes.tolist(), strict=True)
    positives = {(i // NUM_LOCATIONS, k, i % NUM_LOCATIONS) for i, k in pairs}
    assert positives
    for place in itertools.product(range(2), range(NUM_CLASSES), range(48)):
        x = logits[0].flatten(2)[place].detach().double()
        is_positive = place in positives
        slope = (loss_of(x + step, is_positive) - loss_of(x - step, is_positive)) / (2 * step)
        grad = logits[0].grad.flatten(2)[place].item()
        assert grad == pytest.approx(slope.item(), rel=1e-4, abs=1e-7)


def test_an_infinite_logit_of_background_adds_nothing_in_any_class():
    # A background logit of -inf has p = 0 and the loss 0, whether its class is 0 or another one.
    sums = []
    for k in range(3):
        logits = torch.zeros(1, 3, 1, 2)
        logits[0, k, 0, 0] = -math.inf
        none = torch.zeros(0, dtype=torch.int64)
        targets = one_pair_each(none, none.bool(), 2)
        sums.append(focal_loss([logits], targets, 0.25, 2.0).item())
    assert sums == [pytest.approx(5 * 0.75 * 0.25 * math.log(2))] * 3


def test_focal_loss_can_be_differentiated_several_times():
    logits = random_logits()
    loss = 3 * focal_loss(logits, random_targets(), 0.25, 2.0)
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_focal_loss_of_one_location_by_hand():
    # With one location, one class and the logit 0, p is 0.5 and the loss is alpha * 0.5^2 * ln 2,
    # where alpha is 0.25 for a positive and 0.75 for a negative.
    logits = [torch.zeros(1, 1, 1, 1)]
    zero = torch.zeros(1, dtype=torch.int64)
    for is_positive, alpha in ((True, 0.25), (False, 0.75)):
        targets = one_pair_each(zero, torch.tensor([is_positive]), 1)
        loss = focal_loss(logits, targets, 0.25, 2.0)
        assert loss.item() == pytest.approx(alpha * 0.25 * math.log(2))


def test_focal_loss_is_finite_for_extreme_logits_and_half_precision():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        logits = [
            torch.full((1, NUM_CLASSES, h, w), value, dtype=dtype, requires_grad=True)
            for value, (h, w) in zip((-60000.0, 60000.0), LEVEL_SIZES, strict=True)
        ]
        loss = focal_loss(logits, random_targets(num_images=1), 0.25, 2.0)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert all(x.grad.isfinite().all() and x.grad.dtype == dtype for x in logits)


def test_float16_gradients_of_background_survive_the_loss_scaler():
    # For p = 0.003, the gradient of 2e-7 is too small for float16, unless it is scaled by 2^16.
    logits = [torch.full((1, 1, 4, 4), -5.8, dtype=torch.float16, requires_grad=True)]
    none = torch.zeros(0, dtype=torch.int64)
    targets = one_pair_each(none, none.bool(), 16)
    (focal_loss(logits, targets, 0.25, 2.0) * 2**16).backward()
    exact = [logits[0].detach().float().requires_grad_()]
    (focal_loss(exact, targets, 0.25, 2.0) * 2**16).backward()
    torch.testing.assert_close(logits[0].grad.float(), exact[0].grad, rtol=2e-3, atol=0)


def test_focal_loss_accepts_channels_last_maps():
    targets = random_targets()
    logits = random_logits()
    channels_last = [
        x.detach().to(memory_format=torch.channels_last).requires_grad_() for x in logits
    ]
    loss = focal_loss(logits, targets, 0.25, 2.0)
    channels_last_loss = focal_loss(channels_last, targets, 0.25, 2.0)
    torch.testing.assert_close(channels_last_loss, loss)
    loss.backward()
    channels_last_loss.backward()
    for a, b in zip(logits, channels_last, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
