"""The keys of a config: each reaches the model, and wrong values are refused."""

import logging

import pytest
import torch
from detectron2.modeling import build_model
from tiny import random_input, tiny_cfg

from fcos_d2.engine.trainer import wrap_in_ddp


@pytest.mark.parametrize("key", ["CLS", "LOC", "QUALITY"])
def test_a_weight_multiplies_its_loss_alone(key):
    inputs = [random_input(3), random_input(2, seed=1)]
    plain, weighted = (
        seeded_model()(inputs),
        seeded_model(f"MODEL.FCOS.LOSS_WEIGHT_{key}", 3.0)(inputs),
    )
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
def test_a_key_changes_these_losses_and_no_others(key, value, changed):
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
    opts = ("TEST.DETECTIONS_PER_IMAGE", 7, "MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0])
    model = build_model(tiny_cfg(*opts, "MODEL.PIXEL_STD", [4.0, 5.0, 6.0]))
    assert model.postprocessor.detections_per_image == 7
    assert model.pixel_mean.flatten().tolist() == [1, 2, 3]
    assert model.pixel_std.flatten().tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.FCOS.IN_FEATURES", ["p3", "p9"]), r"the backbone has no \['p9'\]"),
        (("MODEL.FCOS.IN_FEATURES", ["p4", "p3"]), "must go from fine to coarse"),
        (("MODEL.FCOS.LOC_LOSS_TYPE", "l1"), "LOC_LOSS_TYPE = 'l1' must be one of"),
        (("MODEL.FCOS.BOX_ACTIVATION", "elu"), "BOX_ACTIVATION = 'elu' must be one of"),
        (("MODEL.FCOS.SCORE_THRESH_TEST", 1.0), "SCORE_THRESH_TEST = 1.0 must be"),
        (
            ("MODEL.FCOS.NMS_THRESH_TEST", -0.5),
            "NMS_THRESH_TEST = -0.5 must be a number from 0 to 1",
        ),
        (("MODEL.FCOS.SIZES_OF_INTEREST", [64]), "has 1 values, but 5 levels need 4"),
    ],
)
def test_wrong_settings_name_key_and_value(opts, message):
    sizes = ("MODEL.FCOS.SIZES_OF_INTEREST", [64]) if "IN_FEATURES" in opts[0] else ()
    with pytest.raises(ValueError, match=message):
        build_model(tiny_cfg(*sizes, *opts))


@pytest.mark.parametrize(
    ("used", "left_out"),
    [
        (["p3", "p4"], ["p5", "p6", "p7"]),
        (["p6", "p7"], ["p3", "p4", "p5"]),
        (["p3", "p7"], ["p4", "p5", "p6"]),
    ],
)
def test_maps_that_no_level_uses_are_named_and_several_processes_refuse_them(
    used, left_out, caplog, monkeypatch
):
    sizes = ("MODEL.FCOS.SIZES_OF_INTEREST", [64])
    with caplog.at_level(logging.WARNING, logger="fcos_d2.modeling.backbone.untrained"):
        model = build_model(tiny_cfg(*sizes, "MODEL.FCOS.IN_FEATURES", used))
    assert f"The backbone makes {left_out}, which no level" in caplog.text
    sum(model([random_input(3)]).values()).backward()
    names = {name: p for name, p in model.named_parameters() if p.grad is None}
    assert names
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="which no level of the head uses, and several"):
        wrap_in_ddp(model)
