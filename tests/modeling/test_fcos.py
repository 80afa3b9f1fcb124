"""The whole model: trains, detects, and is indifferent to what it should be indifferent to."""

import io
import logging

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, build_model
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from omegaconf import OmegaConf
from tiny import predictions_of, random_input, random_instances, tiny_cfg
from torchvision.ops import box_iou

from fcos_d2 import (
    FCOS,
    TARGET_ASSIGNER_REGISTRY,
    FCOSAssigner,
    FCOSDenseHead,
    FCOSHead,
    FCOSLosses,
    FCOSPostProcessor,
    Levels,
)
from fcos_d2.engine.trainer import wrap_in_ddp

LOSSES = {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}


def seeded_model(*opts, seed=0):
    torch.manual_seed(seed)
    return build_model(tiny_cfg(*opts))


def detector(*opts):
    """A random model in eval mode that does detect something, of some extent."""
    model = seeded_model("MODEL.FCOS.PRIOR_PROB", 0.2, *opts).eval()
    with torch.no_grad():
        for predictor in (model.head.cls_logits, model.head.bbox_pred, model.head.centerness):
            predictor.weight.mul_(10)
        model.head.bbox_pred.bias.fill_(1.0)
    return model


@pytest.mark.parametrize("radius", [1.5, 0.0])
@pytest.mark.parametrize("num_boxes", [(3, 5), (3, 0), (0, 0)])
def test_batches_with_and_without_boxes_train(num_boxes, radius):
    model = seeded_model("MODEL.FCOS.CENTER_SAMPLING_RADIUS", radius)
    losses = model([random_input(n, seed=i) for i, n in enumerate(num_boxes)])
    assert set(losses) == LOSSES
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    if sum(num_boxes) == 0:
        assert losses["loss_fcos_loc"] == losses["loss_fcos_ctr"] == 0
        assert losses["loss_fcos_cls"] > 0


def test_losses_by_hand():
    # One image, one level, one box with one positive: the centre of the only cell it covers.
    model = seeded_model(
        "MODEL.FPN.IN_FEATURES",
        ["res5"],
        "MODEL.FCOS.IN_FEATURES",
        ["p5"],
        "MODEL.FCOS.SIZES_OF_INTEREST",
        [],
        "MODEL.FCOS.TOP_LEVELS",
        0,
        "MODEL.FCOS.NUM_CLASSES",
        1,
    )
    instances = random_instances(1, 64, 64, num_classes=1)
    instances.gt_boxes.tensor[0] = torch.tensor([4.0, 4.0, 36.0, 28.0])  # about (16, 16)
    targets = model.assigner([instances], [(2, 2)])
    maps = [[torch.zeros(1, channels, 2, 2)] for channels in (1, 4, 1)]
    maps[1][0].fill_(0.5)  # 16 px
    losses = model.losses(predictions_of(maps), targets)
    # Focal at logit 0: one positive .25 * .25 * ln 2, three negatives .75 * .25 * ln 2.
    assert losses["loss_fcos_cls"].item() == pytest.approx(0.25 * 0.6931472 * (0.25 + 3 * 0.75))
    # ltrb (12, 12, 20, 12) against (16, 16, 16, 16): intersection 28 * 24, union 32 * 24 + 32 * 32
    # - 672 = 1120, hull 36 * 32 = 1152.
    giou = 672 / 1120 - (1152 - 1120) / 1152
    assert losses["loss_fcos_loc"].item() == pytest.approx(1 - giou, rel=1e-5)
    # BCE at logit 0 is ln 2, whatever the target.
    assert losses["loss_fcos_ctr"].item() == pytest.approx(0.6931472)


def test_moving_normalizer_divides_by_the_average_of_the_batches_so_far():
    plain = seeded_model()
    model = seeded_model("MODEL.FCOS.LOSS_NORMALIZER", "moving_fg")
    average = None
    for seed, num_boxes in enumerate((2, 12, 5)):
        inputs = [random_input(num_boxes, seed=seed)]
        instances = [x["instances"] for x in inputs]
        sizes = [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]
        num = model.assigner(instances, sizes).is_positive.sum().item()
        average = num if average is None else 0.9 * average + 0.1 * num
        expected = {name: value * num / average for name, value in plain(inputs).items()}
        for name, value in model(inputs).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    # Resumed, it goes on from there.
    assert model.state_dict()["losses.moving_num_positives"].item() == pytest.approx(average)
    assert "losses.moving_num_positives" not in plain.state_dict()


def test_a_batch_of_two_equals_two_batches_of_one():
    model = detector()
    inputs = [random_input(2, seed=1), random_input(2, seed=2)]
    with torch.no_grad():
        together = model(inputs)
        apart = [model([x])[0] for x in inputs]
    for a, b in zip(together, apart, strict=True):
        a, b = a["instances"], b["instances"]
        assert len(a) == len(b) > 10
        torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)
        assert torch.equal(a.pred_classes, b.pred_classes)


def test_order_of_images_does_not_matter_to_the_losses():
    model = seeded_model().train()
    inputs = [random_input(3, seed=1), random_input(6, seed=2)]
    for name, value in model(inputs).items():
        torch.testing.assert_close(value, model(inputs[::-1])[name], rtol=1e-4, atol=1e-5)


def test_detections_are_scaled_to_the_size_asked_for():
    model = detector()
    image = random_input(1)
    with torch.no_grad():
        small = model([image])[0]["instances"]
        large = model([{**image, "height": 192, "width": 512}])[0]["instances"]
    assert large.image_size == (192, 512)
    factors = torch.tensor([4.0, 2.0, 4.0, 2.0])
    torch.testing.assert_close(large.pred_boxes.tensor, small.pred_boxes.tensor * factors)


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (1, 1), (33, 200)])
def test_odd_image_sizes(size):
    model = detector()
    with torch.no_grad():
        boxes = model([{"image": torch.rand(3, *size) * 255}])[0]["instances"].pred_boxes.tensor
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= size[1]
    assert boxes[:, 3].max() <= size[0]
    model.train()
    losses = model([random_input(1, *size), random_input(2, *size)])  # BN wants two values
    assert all(value.isfinite() for value in losses.values())


def test_bfloat16_autocast_trains_and_decodes_in_float32():
    model = seeded_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([random_input(3), random_input(0)])
    assert all(x.dtype == torch.float32 and x.isfinite() for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())

    model = detector()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        result = model([random_input(0)])[0]["instances"]
    assert result.pred_boxes.tensor.dtype == result.scores.dtype == torch.float32
    # Not on the grid of bfloat16, whose step at 64..128 is half a pixel.
    assert ((result.pred_boxes.tensor * 2) % 1 != 0).any()


def test_detections_in_bfloat16_are_those_of_autocast():
    plain, model = detector(), detector("MODEL.FCOS.INFERENCE_DTYPE", "bfloat16")
    dtypes = []
    model.head.cls_logits.register_forward_hook(lambda *args: dtypes.append(args[2].dtype))
    inputs = [random_input(0)]
    with torch.no_grad():
        found = model(inputs)[0]["instances"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected = plain(inputs)[0]["instances"]
        exact = plain(inputs)[0]["instances"]
    assert set(dtypes) == {torch.bfloat16}
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)
    assert not torch.equal(found.scores, exact.scores)
    torch.testing.assert_close(found.scores[0], exact.scores[0], rtol=0.02, atol=0)
    dtypes.clear()
    model.train()(inputs)  # training has its own setting
    assert set(dtypes) == {torch.float32}


def test_saved_and_loaded_it_detects_the_same():
    model, other = detector(), detector()
    for parameter in other.parameters():
        parameter.data.uniform_()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        a, b = (m([random_input(0)])[0]["instances"] for m in (model, other))
    assert len(a) > 10
    assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
    assert torch.equal(a.scores, b.scores)


def test_the_threshold_can_look_at_the_product_of_class_and_quality():
    plain = detector("TEST.DETECTIONS_PER_IMAGE", 10**6, "MODEL.FCOS.NMS_THRESH_TEST", 1.0)
    model = detector(
        "TEST.DETECTIONS_PER_IMAGE",
        10**6,
        "MODEL.FCOS.NMS_THRESH_TEST",
        1.0,
        "MODEL.FCOS.THRESH_WITH_CTR",
        True,
    )
    with torch.no_grad():
        scores, fewer = (m([random_input(0)])[0]["instances"].scores for m in (plain, model))
    # The score is the root of the product.
    torch.testing.assert_close(fewer, scores[scores**2 > 0.05])
    assert 10 < len(fewer) < len(scores)


def plain_detections(model, sample, thresh, topk, nms_thresh):
    """Of the model's raw maps, in loops: (score, class, box), best first."""
    height, width = sample["image"].shape[1:]
    cls_logits, raw_ltrb, quality_logits = model.head(
        list(model.backbone(model.preprocess_image([sample]).tensor).values())
    )[:3]
    candidates = []
    for stride, *maps in zip(
        model.levels.strides, cls_logits, raw_ltrb, quality_logits, strict=True
    ):
        probabilities, ltrb, quality = maps[0][0].sigmoid(), maps[1][0], maps[2][0, 0].sigmoid()
        of_level = []
        for k, i, j in (probabilities > thresh).nonzero().tolist():
            left, top, right, bottom = (ltrb[:, i, j].relu() * stride).tolist()
            x, y = (j + 0.5) * stride, (i + 0.5) * stride
            box = [
                max(x - left, 0),
                max(y - top, 0),
                min(x + right, width),
                min(y + bottom, height),
            ]
            score = (probabilities[k, i, j] * quality[i, j]).sqrt().item()
            of_level.append((score, k, box))
        candidates += sorted(of_level, reverse=True)[:topk]
    kept = []
    for score, k, box in sorted(candidates, reverse=True):
        rivals = torch.tensor([other for _, of_class, other in kept if of_class == k])
        overlaps = box_iou(torch.tensor([box]), rivals.reshape(-1, 4))
        if box[2] > box[0] and box[3] > box[1] and not (overlaps > nms_thresh).any():
            kept.append((score, k, box))
    return kept


@pytest.mark.parametrize(
    ("thresh", "topk", "nms_thresh"),
    [(0.05, 1000, 0.6), (0.3, 1000, 0.6), (0.05, 7, 0.6), (0.05, 1000, 0.3), (0.3, 7, 0.3)],
)
def test_detections_are_those_of_plain_loops(thresh, topk, nms_thresh):
    model = detector(
        "MODEL.FCOS.SCORE_THRESH_TEST",
        thresh,
        "MODEL.FCOS.TOPK_CANDIDATES_TEST",
        topk,
        "MODEL.FCOS.NMS_THRESH_TEST",
        nms_thresh,
        "TEST.DETECTIONS_PER_IMAGE",
        10**6,
    )
    sample = random_input(0)
    with torch.no_grad():
        found = model([sample])[0]["instances"]
        expected = plain_detections(model, sample, thresh, topk, nms_thresh)
        if (thresh, topk, nms_thresh) != (0.05, 1000, 0.6):  # or the keys would change nothing
            assert len(expected) < len(plain_detections(model, sample, 0.05, 1000, 0.6))
    scores, classes, boxes = zip(*expected, strict=True)
    torch.testing.assert_close(found.scores, torch.tensor(scores))
    assert found.pred_classes.tolist() == list(classes)
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor(boxes), rtol=1e-4, atol=1e-3)


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


@pytest.mark.parametrize(("key", "value"), [("BOX_ACTIVATION", "exp"), ("LOCATION_OFFSET", 0.0)])
def test_inference_decodes_as_the_key_says(key, value):
    plain, other = detector(), detector(f"MODEL.FCOS.{key}", value)
    with torch.no_grad():
        a, b = (m([random_input(0)])[0]["instances"].pred_boxes.tensor[:5] for m in (plain, other))
    assert not torch.allclose(a, b)


def test_an_assigner_of_ones_own_is_chosen_by_name():
    class OnlyTheFirstBox(FCOSAssigner):
        """A rule that another package might register."""

        def __call__(self, gt_instances, feature_sizes, **kwargs):
            first = [x[:1] for x in gt_instances]
            return super().__call__(first, feature_sizes, **kwargs)

    TARGET_ASSIGNER_REGISTRY.register(OnlyTheFirstBox)
    try:
        model = seeded_model("MODEL.FCOS.TARGET_ASSIGNER", "OnlyTheFirstBox")
    finally:
        del TARGET_ASSIGNER_REGISTRY._obj_map["OnlyTheFirstBox"]
    assert type(model.assigner) is OnlyTheFirstBox
    sample = random_input(3)
    first = {**sample, "instances": sample["instances"][:1]}
    usual = seeded_model()
    # Batch norms see the same image each time, so that it is the targets alone that differ.
    losses, expected, of_all = model([sample]), usual([first]), usual([sample])
    torch.testing.assert_close(losses, expected)
    assert not torch.isclose(losses["loss_fcos_cls"], of_all["loss_fcos_cls"])
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_one_batch_is_learnt_by_heart():
    model = seeded_model()
    # Bright rectangles on black, one class each.
    inputs = []
    for seed in range(2):
        sample = random_input(2, seed=seed)
        sample["image"].zero_()
        for box, k in zip(
            sample["instances"].gt_boxes, sample["instances"].gt_classes, strict=True
        ):
            x1, y1, x2, y2 = box.int().tolist()
            sample["image"][k % 3, y1:y2, x1:x2] = 255
        inputs.append(sample)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = {name: value.item() for name, value in model(inputs).items()}
    for _ in range(150):
        losses = model(inputs)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert losses["loss_fcos_cls"] < 0.02
    assert losses["loss_fcos_loc"] < 0.2
    assert losses["loss_fcos_ctr"] < first["loss_fcos_ctr"]


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


def lazy_model():
    """The second door: plain constructors, nothing of cfg."""
    channels = 64
    levels = ["p3", "p4", "p5", "p6", "p7"]
    return L(FCOS)(
        backbone=L(FPN)(
            bottom_up=L(ResNet)(
                stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
                stages=L(ResNet.make_default_stages)(depth=18, norm="BN"),
                out_features=["res3", "res4", "res5"],
            ),
            in_features=["res3", "res4", "res5"],
            out_channels=channels,
            top_block=L(LastLevelP6P7)(
                in_channels=channels, out_channels=channels, in_feature="p5"
            ),
        ),
        dense_head=L(FCOSDenseHead)(
            levels=L(Levels)(strides=[8, 16, 32, 64, 128]),
            head=L(FCOSHead)(
                input_shape=[ShapeSpec(channels=channels)] * len(levels), num_classes=4
            ),
            assigner=L(FCOSAssigner)(levels="${..levels}"),
            losses=L(FCOSLosses)(levels="${..levels}"),
            postprocessor=L(FCOSPostProcessor)(levels="${..levels}"),
        ),
        head_in_features=levels,
        num_classes=4,
        pixel_mean=[103.53, 116.28, 123.675],
        pixel_std=[1.0, 1.0, 1.0],
    )


def test_it_can_be_built_from_a_lazy_config():
    config = lazy_model()
    config.dense_head.postprocessor.nms_thresh_test = 0.5
    model = instantiate(config)
    assert model.postprocessor.nms_thresh_test == 0.5
    sample = random_input(3)
    sample["instances"].gt_classes %= 4
    assert set(model([sample])) == LOSSES
    with torch.no_grad():
        assert "instances" in model.eval()([sample])[0]


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


@pytest.mark.parametrize(("label", "shown"), [(-1, "-1"), (5, "5"), (99, "99")])
def test_a_class_that_is_none_of_the_model_is_a_clear_error(label, shown):
    sample = random_input(3)
    sample["instances"].gt_classes[1] = label
    with pytest.raises(ValueError, match=f"gt_classes has {shown}, but MODEL.FCOS.NUM_CLASSES = 5"):
        seeded_model()([sample])


@pytest.mark.parametrize("num_boxes", [0, 3])
def test_classes_that_are_no_indices_are_a_clear_error(num_boxes):
    sample = random_input(num_boxes)
    sample["instances"].gt_classes = sample["instances"].gt_classes.float()
    with pytest.raises(ValueError, match=r"gt_classes is of type torch\.float32"):
        seeded_model()([sample])


@pytest.mark.parametrize("strides", [[8.5, 16], [0, 8], [8, -4], ["8"]])
def test_strides_are_positive_integers(strides):
    with pytest.raises(ValueError, match="must be positive integers"):
        Levels(strides)


@pytest.mark.parametrize(
    ("key", "value"), [("pixel_std", [0.0, 1.0, 1.0]), ("pixel_mean", [1.0, 2.0])]
)
def test_pixel_statistics_of_plain_constructors_are_checked(key, value):
    config = lazy_model()
    config[key] = value
    with pytest.raises(ValueError, match=f"(?i){key}"):
        instantiate(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 80}, "head's num_classes is 4, the model's is 80"),
        (
            {"dense_head.losses.box_quality": "none"},
            "head's predict_quality is True, the model's is False",
        ),
        (
            {"dense_head.head.input_shape": [ShapeSpec(channels=32)] * 5},
            "head's in_channels is 32, the model's is 64",
        ),
        (
            {"dense_head.head.input_shape": [ShapeSpec(channels=64)] * 4},
            "head's num_levels is 4, the model's is 5",
        ),
        (
            {"dense_head.levels": L(Levels)(strides=[4, 8, 16, 32, 64])},
            "the strides of the maps are",
        ),
        (
            {"dense_head.assigner.levels": L(Levels)(strides=[4, 8, 16, 32, 64])},
            r"The assigner part was built with Levels\(strides=\(4, 8, 16, 32, 64\)",
        ),
        (
            {
                "dense_head.losses.levels": L(Levels)(
                    strides=[8, 16, 32, 64, 128], location_offset=0
                )
            },
            r"The losses part was built with .*offset=0\.0.*, the model has .*offset=0\.5",
        ),
    ],
)
def test_parts_and_model_must_agree(changes, message):
    config = lazy_model()
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    with pytest.raises(ValueError, match=message):
        instantiate(config)


def test_diverged_exp_outputs_stay_finite():
    model = seeded_model(
        "MODEL.FCOS.BOX_ACTIVATION", "exp", "MODEL.FCOS.CENTER_SAMPLING_RADIUS", 0.0
    )
    torch.nn.init.constant_(model.head.bbox_pred.bias, 100.0)
    losses = model([random_input(3)])
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_channels_last_computes_the_same():
    models = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        models.append(build_model(tiny_cfg("MODEL.FCOS.CHANNELS_LAST", channels_last)))
    maps = []
    for model in models:
        model.head.cls_logits.register_forward_hook(lambda *args: maps.append(args[2]))
    inputs = [random_input(3), random_input(2, seed=1)]
    losses, others = (model(inputs) for model in models)
    for name, value in losses.items():
        torch.testing.assert_close(others[name], value, rtol=1e-4, atol=1e-5)
    first, others_first = maps[0], maps[len(maps) // 2]
    assert not first.is_contiguous(memory_format=torch.channels_last)
    assert others_first.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        detections, others = (
            model.eval()(inputs[:1])[0]["instances"].get_fields() for model in models
        )
    torch.testing.assert_close(others["scores"], detections["scores"], rtol=1e-4, atol=1e-5)
