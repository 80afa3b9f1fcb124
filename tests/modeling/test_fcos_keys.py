"""Config keys: each value has its effect on the model, and wrong values are refused."""

import logging

import pytest
import torch
from detectron2.modeling import build_model
from tiny import detector, random_input, seeded_model, tiny_cfg

from fcos_d2.engine.trainer import wrap_in_ddp
from fcos_d2.errors import InputError

LOSSES = {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}


@pytest.mark.parametrize("key", ["CLS", "LOC", "QUALITY"])
def test_a_weight_multiplies_only_its_loss(key):
    inputs = [random_input(3), random_input(2, seed=1)]
    plain = seeded_model()(inputs)
    weighted = seeded_model(f"MODEL.FCOS.LOSS_WEIGHT_{key}", 3.0)(inputs)
    name = {"CLS": "loss_fcos_cls", "LOC": "loss_fcos_loc", "QUALITY": "loss_fcos_ctr"}[key]
    for loss, value in plain.items():
        torch.testing.assert_close(weighted[loss], value * (3 if loss == name else 1))


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("BOX_ACTIVATION", "exp", {"loss_fcos_loc"}),
        ("CENTERNESS_ON", "cls", {"loss_fcos_ctr"}),
        ("LOSS_NORMALIZER", "all", {"loss_fcos_cls"}),
        *(("LOC_LOSS_TYPE", x, {"loss_fcos_loc"}) for x in ("diou", "ciou", "iou", "linear_iou")),
        ("LOCATION_OFFSET", 0.0, LOSSES),
        ("SIZES_OF_INTEREST", [16, 32, 64, 128], LOSSES),
        ("CENTER_SAMPLING_RADIUS", 0.5, LOSSES),
    ],
)
def test_a_key_changes_only_the_losses_that_depend_on_it(key, value, changed):
    inputs = [random_input(3), random_input(2, seed=1)]
    plain, other = (detector(*opts).train()(inputs) for opts in ((), (f"MODEL.FCOS.{key}", value)))
    assert {name for name in plain if not torch.isclose(plain[name], other[name])} == changed


@pytest.mark.parametrize(
    ("key", "value", "effect"),
    [
        ("NUM_CLS_CONVS", 3, lambda m: len(m.head.cls_tower) == 9),
        ("NUM_BOX_CONVS", 2, lambda m: len(m.head.bbox_tower) == 6),
        ("NUM_SHARE_CONVS", 2, lambda m: len(m.head.share_tower) == 6),
        ("HEAD_CHANNELS", 32, lambda m: m.head.cls_logits.in_channels == 32),
        ("NORM", "", lambda m: len(m.head.cls_tower) == 2),
        ("NORM", "BN", lambda m: "cls_tower.1.4.running_var" in m.head.state_dict()),
        ("USE_DEFORMABLE", True, lambda m: "cls_tower.0.offset.bias" in m.head.state_dict()),
        ("USE_SCALE", False, lambda m: not list(m.head.scales.parameters())),
        ("PRIOR_PROB", 0.5, lambda m: m.head.cls_logits.bias.eq(0).all()),
        ("PRIOR_LTRB", 0.0, lambda m: m.head.bbox_pred.bias.eq(0).all()),
        ("FOCAL_LOSS_ALPHA", 0.75, lambda m: m.losses.focal_loss_alpha == 0.75),
        ("FOCAL_LOSS_GAMMA", 1.0, lambda m: m.losses.focal_loss_gamma == 1.0),
        ("BOX_QUALITY", "iou", lambda m: m.losses.box_quality == "iou"),
        ("BOX_QUALITY", "none", lambda m: m.head.centerness is None),
        ("NUM_CLASSES", 9, lambda m: m.num_classes == m.head.cls_logits.out_channels == 9),
    ],
)
def test_each_key_reaches_the_model(key, value, effect):
    assert not effect(build_model(tiny_cfg()))
    assert effect(build_model(tiny_cfg(f"MODEL.FCOS.{key}", value)))


def test_detectron2s_own_keys_reach_the_model():
    statistics = {"MODEL.PIXEL_MEAN": [1.0, 2.0, 3.0], "MODEL.PIXEL_STD": [4.0, 5.0, 6.0]}
    model = build_model(tiny_cfg(statistics, "TEST.DETECTIONS_PER_IMAGE", 7))
    assert model.postprocessor.detections_per_image == 7
    assert model.pixel_mean.flatten().tolist() == [1, 2, 3]
    assert model.pixel_std.flatten().tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("IN_FEATURES", ["p3", "p9"], "['p9']"),
        ("IN_FEATURES", ["p4", "p3"], "[16, 8]"),
        ("LOC_LOSS_TYPE", "l1", "'l1'"),
        ("BOX_ACTIVATION", "elu", "'elu'"),
        ("SCORE_THRESH_TEST", 1.0, "1.0"),
        ("NMS_THRESH_TEST", -0.5, "from 0 to 1"),
        ("SIZES_OF_INTEREST", [64], "need 4"),
    ],
)
def test_a_wrong_value_is_an_error_with_its_key(name, value, word):
    sizes = {"MODEL.FCOS.SIZES_OF_INTEREST": [64]} if name == "IN_FEATURES" else {}
    with pytest.raises(InputError) as caught:
        build_model(tiny_cfg(sizes, f"MODEL.FCOS.{name}", value))
    assert caught.value.key == f"MODEL.FCOS.{name}"
    assert word in caught.value.text


@pytest.mark.parametrize(
    ("used", "left_out"),
    [
        (["p3", "p4"], ["p5", "p6", "p7"]),
        (["p6", "p7"], ["p3", "p4", "p5"]),
        (["p3", "p7"], ["p4", "p5", "p6"]),
    ],
)
def test_maps_that_no_level_uses_cause_a_warning_and_an_error_with_several_processes(
    used, left_out, caplog, monkeypatch
):
    opts = {"MODEL.FCOS.SIZES_OF_INTEREST": [64], "MODEL.FCOS.IN_FEATURES": used}
    with caplog.at_level(logging.WARNING, logger="fcos_d2.modeling.backbone.unused_maps"):
        model = build_model(tiny_cfg(opts))
    (record,) = caplog.records
    assert str(left_out) in record.getMessage()
    sum(model([random_input(3)]).values()).backward()
    names = {name: p for name, p in model.named_parameters() if p.grad is None}
    assert names
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    with pytest.raises(InputError) as caught:
        wrap_in_ddp(model)
    assert str(left_out) in caught.value.text
