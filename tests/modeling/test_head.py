"""The head."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec

from fcos_d2 import FCOSHead

P3_TO_P5 = [ShapeSpec(channels=32, stride=s) for s in (8, 16, 32)]


def features(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 32, 32 // s, 48 // s, generator=generator) for s in (1, 2, 4)]


def test_maps_have_the_documented_shapes():
    logits, ltrb, centerness = FCOSHead(input_shape=P3_TO_P5, num_classes=7)(features())
    for maps, channels in ((logits, 7), (ltrb, 4), (centerness, 1)):
        assert [x.shape for x in maps] == [(2, channels, 32 // s, 48 // s) for s in (1, 2, 4)]


def test_state_dict_has_the_original_names():
    keys = set(FCOSHead(input_shape=P3_TO_P5, num_classes=7).state_dict())
    towers = {
        f"{tower}.{index}.{kind}"
        for tower in ("cls_tower", "bbox_tower")
        for index in (0, 1, 3, 4, 6, 7, 9, 10)  # conv, GN, ReLU four times
        for kind in ("weight", "bias")
    }
    predictors = {
        f"{name}.{kind}"
        for name in ("cls_logits", "bbox_pred", "centerness")
        for kind in ("weight", "bias")
    }
    assert keys == towers | predictors | {f"scales.{level}.scale" for level in range(3)}


def test_every_location_starts_with_the_prior_probability():
    head = FCOSHead(input_shape=P3_TO_P5, num_classes=7, prior_prob=0.02)
    assert head.cls_logits.bias.sigmoid().tolist() == pytest.approx([0.02] * 7)
    assert head.bbox_pred.bias.abs().max() == 0
    assert head.cls_tower[0].weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert math.isclose(head.scales[0].scale.item(), 1.0)


@pytest.mark.parametrize("branch", ["box", "cls"])
def test_centerness_comes_from_the_tower_that_is_asked_for(branch):
    head = FCOSHead(input_shape=P3_TO_P5, num_classes=7, centerness_on=branch)
    head(features())[2][0].sum().backward()
    used, unused = head.bbox_tower, head.cls_tower
    if branch == "cls":
        used, unused = unused, used
    assert used[0].weight.grad is not None
    assert unused[0].weight.grad is None


def test_scale_stretches_only_its_level():
    head = FCOSHead(input_shape=P3_TO_P5, num_classes=7)
    before = head(features())
    head.scales[1].scale.data.fill_(3.0)
    after = head(features())
    for level, factor in enumerate((1, 3, 1)):
        torch.testing.assert_close(after[1][level], before[1][level] * factor)
        torch.testing.assert_close(after[0][level], before[0][level])


def test_maps_of_one_cell_are_normalised_too():
    # 32 channels in 32 groups: torch's GroupNorm raises here, in inference too.
    head = FCOSHead(input_shape=P3_TO_P5[:1], num_classes=7).eval()
    (logits,), _, _ = head([torch.randn(1, 32, 1, 1)])
    assert logits.isfinite().all()
    x = torch.randn(2, 32, 5, 5)
    torch.testing.assert_close(head.cls_tower[1](x), torch.nn.GroupNorm(32, 32)(x))


def test_scale_and_norm_can_be_left_out():
    head = FCOSHead(input_shape=P3_TO_P5, num_classes=7, norm="", use_scale=False)
    assert not [key for key in head.state_dict() if "scale" in key]
    assert [type(layer).__name__ for layer in head.cls_tower] == ["Conv2d", "ReLU"] * 4


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"norm": "BN2"}, "NORM = 'BN2' must be one of"),
        ({"centerness_on": "left"}, "CENTERNESS_ON = 'left' must be one of"),
        ({"prior_prob": 1.0}, "PRIOR_PROB = 1.0 must be a number between 0 and 1"),
        ({"num_classes": 0}, "NUM_CLASSES = 0 must be an integer of at least 1"),
        ({"input_shape": [*P3_TO_P5, ShapeSpec(channels=64)]}, r"got \[32, 32, 32, 64\]"),
        ({"input_shape": [ShapeSpec(channels=48)]}, "have 48 channels"),
    ],
)
def test_wrong_settings_name_key_and_value(kwargs, message):
    with pytest.raises(ValueError, match=message):
        FCOSHead(**{"input_shape": P3_TO_P5, "num_classes": 7, **kwargs})
