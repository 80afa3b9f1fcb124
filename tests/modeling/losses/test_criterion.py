"""The weights and normalizers of the losses, for each quality and each normalizer."""

import math

import pytest
import torch
from detectron2.structures import Boxes
from fvcore.nn import sigmoid_focal_loss
from tiny import (
    MAP_SIZES,
    STRIDES,
    make_instances,
    predictions_of,
    random_input,
    random_instances,
    random_maps,
    seeded_model,
)
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import box_iou, complete_box_iou_loss, generalized_box_iou_loss

from fcos_d2.errors import InputError
from fcos_d2.modeling.annotations import copy_annotations
from fcos_d2.modeling.levels import Levels, compute_locations, decode_ltrb, flatten_levels
from fcos_d2.modeling.losses import QUALITIES, LossTerm, LossTerms, Quality
from fcos_d2.modeling.losses.criterion import FCOSLosses
from fcos_d2.modeling.losses.quality import centerness_targets

NUM_LOCATIONS = sum(h * w for h, w in MAP_SIZES)
LOSS_NAMES = {"centerness": "loss_fcos_ctr", "iou": "loss_fcos_iou", "none": None}


def maps_of_a_head(num_images, has_quality=True):
    """Draw class logits, raw ltrb and, unless the head has none, quality logits."""
    channels = (5, 4, 1) if has_quality else (5, 4)
    maps = [[x + 1 for x in random_maps(c, num_images=num_images, seed=c)] for c in channels]
    return maps if has_quality else [*maps, []]


def model_with(quality, normalizer="fg", **keys):
    opts = {"BOX_QUALITY": quality, "LOSS_NORMALIZER": normalizer, **keys}
    return seeded_model({f"MODEL.FCOS.{key}": value for key, value in opts.items()})


def plain_losses(maps, targets, quality, normalizer, alpha=0.25, gamma=2.0, is_weighted=True):
    """
    Compute the losses with the functions of torchvision and fvcore.

    Box and quality losses are computed at the positives, the focal loss on dense one-hot targets.
    """
    num_images = len(maps[0][0])
    where = targets.is_positive
    image = targets.flat_location_idxs[where] // NUM_LOCATIONS
    location = targets.flat_location_idxs[where] % NUM_LOCATIONS
    xy = torch.cat(compute_locations(MAP_SIZES, STRIDES))[location]
    stride = torch.cat(
        [torch.full((h * w,), s) for (h, w), s in zip(MAP_SIZES, STRIDES, strict=True)]
    )
    pred = flatten_levels(maps[1])[image, location].relu() * stride[location, None]
    pred_boxes, boxes = decode_ltrb(xy, pred), decode_ltrb(xy, targets.ltrb[where])
    one_hot = torch.zeros(num_images, NUM_LOCATIONS, 5)
    one_hot[image, location, targets.classes[where]] = 1
    focal = sigmoid_focal_loss(flatten_levels(maps[0]), one_hot, alpha, gamma, reduction="sum")
    giou = generalized_box_iou_loss(pred_boxes, boxes)
    num_positives = max(len(image), 1)
    losses = {"loss_fcos_loc": giou.sum() / num_positives}
    target = box_iou(pred_boxes, boxes).diagonal()
    if quality == "centerness":
        target = centerness_targets(targets.ltrb[where])
        if is_weighted:
            losses["loss_fcos_loc"] = (giou * target).sum() / max(target.sum(), 1e-6)
    if quality != "none":
        bce = binary_cross_entropy_with_logits(
            flatten_levels(maps[2])[image, location, 0], target, reduction="sum"
        )
        losses[LOSS_NAMES[quality]] = bce / num_positives
    total = num_images * NUM_LOCATIONS if normalizer == "all" else num_positives
    return {"loss_fcos_cls": focal / total, **losses}


@pytest.mark.parametrize(
    ("key", "value", "argument"),
    [
        ("FOCAL_LOSS_ALPHA", 0.6, "alpha"),
        ("FOCAL_LOSS_GAMMA", 1.3, "gamma"),
        ("CTR_WEIGHTED_LOC_LOSS", False, "is_weighted"),
    ],
)
def test_a_key_has_the_effect_of_the_argument_of_plain_losses(key, value, argument):
    instances = [random_instances(n, 96, 128, seed=n) for n in (3, 5)]
    maps = maps_of_a_head(2)
    model = seeded_model(f"MODEL.FCOS.{key}", value)
    targets = model.assigner(instances, MAP_SIZES)
    losses = model.losses(predictions_of(maps), targets)
    usual = plain_losses(maps, targets, "centerness", "fg")
    expected = plain_losses(maps, targets, "centerness", "fg", **{argument: value})
    assert usual != expected
    for name in expected:
        torch.testing.assert_close(losses[name], expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_boxes", [(3, 5), (0, 4), (0, 0)])
@pytest.mark.parametrize("normalizer", ["fg", "all"])
@pytest.mark.parametrize("quality", LOSS_NAMES)
def test_losses_equal_plain_losses(quality, normalizer, num_boxes):
    model = model_with(quality, normalizer)
    instances = [random_instances(n, 96, 128, seed=i) for i, n in enumerate(num_boxes)]
    targets = model.assigner(instances, MAP_SIZES)
    maps = maps_of_a_head(2, has_quality=quality != "none")
    losses = model.losses(predictions_of(maps), targets)
    expected = plain_losses(maps, targets, quality, normalizer)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6)
        assert losses[name].dtype == torch.float32


def test_the_moving_average_divides_unweighted_losses_too():
    model, plain = model_with("iou", "moving_fg"), model_with("iou")
    for num_boxes, seed in ((2, 0), (7, 1)):
        targets = model.assigner([random_instances(num_boxes, 96, 128, seed=seed)], MAP_SIZES)
        maps = maps_of_a_head(1)
        losses, expected = (x.losses(predictions_of(maps), targets) for x in (model, plain))
    factor = targets.is_positive.sum() / model.losses.moving_num_positives
    assert factor != 1
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value * factor)


def test_no_gradient_flows_through_the_iou_that_is_the_quality_target():
    model = model_with("iou")
    targets = model.assigner([random_instances(3, 96, 128)], MAP_SIZES)
    maps = maps_of_a_head(1)
    for level in maps[1] + maps[2]:
        level.requires_grad_()
    model.losses(predictions_of(maps), targets)["loss_fcos_iou"].backward()
    assert all(level.grad is None or not level.grad.any() for level in maps[1])
    assert any(level.grad.any() for level in maps[2])


@pytest.mark.parametrize("radius", [1.5, 0.0])
@pytest.mark.parametrize("num_boxes", [(3, 0), (0, 0)])
@pytest.mark.parametrize("quality", LOSS_NAMES)
def test_every_quality_trains_and_detects(quality, num_boxes, radius):
    model = model_with(quality, CENTER_SAMPLING_RADIUS=radius, PRIOR_PROB=0.2, LOC_LOSS_TYPE="ciou")
    assert any("centerness" in name for name in model.state_dict()) == (quality != "none")
    inputs = [random_input(n, seed=i) for i, n in enumerate(num_boxes)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(inputs)
    assert losses.keys() == {"loss_fcos_cls", "loss_fcos_loc", LOSS_NAMES[quality]} - {None}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    if sum(num_boxes) == 0:
        assert all(value == 0 for name, value in losses.items() if name != "loss_fcos_cls")
    with torch.no_grad():
        model.head.bbox_pred.bias.fill_(1.0)
        scores = model.eval()(inputs[:1])[0]["instances"].scores
    assert len(scores) > 10
    if quality == "none":  # the score is that of the class
        assert (scores > 0.05).all()
        assert scores.median() < 0.3


def test_weights_multiply_their_losses():
    weights = {"loss_fcos_cls": 2.0, "loss_fcos_loc": 0.5, "loss_fcos_ctr": 0.0}
    keys = [f"MODEL.FCOS.LOSS_WEIGHT_{x}" for x in ("CLS", "LOC", "QUALITY")]
    model = seeded_model(dict(zip(keys, weights.values(), strict=True)))
    plain = seeded_model()([random_input(3)])
    for name, value in model([random_input(3)]).items():
        torch.testing.assert_close(value, plain[name] * weights[name])


def test_the_key_selects_the_box_loss_ciou():
    model = model_with("none", LOC_LOSS_TYPE="ciou")
    targets = model.assigner([random_instances(3, 96, 128)], MAP_SIZES)
    maps = [[x.clamp(min=0.1) for x in level] for level in maps_of_a_head(1, has_quality=False)]
    where = targets.is_positive
    strides = torch.tensor(STRIDES)[targets.level_idxs][where]
    raw = flatten_levels(maps[1]).flatten(0, 1)[targets.flat_location_idxs[where]]
    zero = torch.zeros(len(raw), 2)
    expected = complete_box_iou_loss(
        decode_ltrb(zero, raw * strides[:, None]), decode_ltrb(zero, targets.ltrb[where])
    ).mean()
    losses = model.losses(predictions_of(maps), targets)
    torch.testing.assert_close(losses["loss_fcos_loc"], expected)


@pytest.mark.parametrize("ignores", [False, True])
@pytest.mark.parametrize("normalizer", ["fg", "moving_fg", "all"])
@pytest.mark.parametrize("quality", LOSS_NAMES)
def test_the_forward_pass_of_training_never_reads_a_value(quality, normalizer, ignores):
    # Fake tensors have no values, so .item(), nonzero and boolean indexing raise errors.
    model = model_with(quality, normalizer, LOC_LOSS_TYPE="ciou")
    inputs = [random_input(3), random_input(2)]
    if ignores:
        inputs[0]["gt_ignore_boxes"] = Boxes(torch.tensor([[0.0, 0.0, 50.0, 50.0]]))
    instances = [x["instances"] for x in inputs]
    _, boxes = copy_annotations(inputs, model.device)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for x in [*(x.gt_boxes for x in instances), *(boxes or [])]:
            x.tensor = mode.from_tensor(x.tensor)
        for x in instances:
            x.gt_classes = mode.from_tensor(x.gt_classes)
        maps = [
            [mode.from_tensor(x) for x in level]
            for level in maps_of_a_head(2, has_quality=quality != "none")
        ]
        losses = model.dense_head.compute_losses(
            predictions_of(maps), instances, [(96, 128)] * 2, boxes
        )
        assert all(value.shape == () for value in losses.values())
        with pytest.raises(DataDependentOutputException):
            losses["loss_fcos_cls"].item()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("box_quality", "best"),
        ("loss_normalizer", "sum"),
        ("loss_weight_loc", -1.0),
    ],
)
def test_wrong_settings_are_errors_with_key_and_value(key, value):
    with pytest.raises(InputError) as caught:
        FCOSLosses(levels=Levels(STRIDES), **{key: value})
    assert (caught.value.key, caught.value.value) == (key, value)


def test_a_quality_of_another_package_is_trained(monkeypatch):
    half = Quality("loss_half", lambda pred, target: torch.full_like(pred[:, 0], 0.5))
    monkeypatch.setitem(QUALITIES, "half", half)
    model = model_with("half")
    targets = model.assigner([random_instances(3, 96, 128)], MAP_SIZES)
    maps = maps_of_a_head(1)
    maps[2] = [x * 0 for x in maps[2]]  # The predicted quality is 0.5.
    losses = model.losses(predictions_of(maps), targets)
    assert losses["loss_half"].item() == pytest.approx(math.log(2))


def test_a_predicted_quality_without_a_target_is_an_error():
    model = model_with("none")
    targets = model.assigner([random_instances(3, 96, 128)], MAP_SIZES)
    with pytest.raises(InputError, match="at random") as caught:
        model.losses(predictions_of(maps_of_a_head(1)), targets)
    assert caught.value.key == "MODEL.FCOS.BOX_QUALITY"


@pytest.mark.parametrize("normalizer", ["fg", "moving_fg", "all"])
def test_a_term_with_a_separate_total_is_divided_only_by_that_total(normalizer):
    def ten(predictions, targets):
        return LossTerms(
            {"ten": LossTerm(torch.tensor(10.0), "tens")}, {"tens": torch.tensor(10.0)}
        )

    losses = FCOSLosses(levels=Levels(STRIDES), loss_normalizer=normalizer, extra_terms=[ten])
    assign = seeded_model().assigner
    for num_boxes in (2, 9, 4):
        targets = assign([random_instances(num_boxes, 96, 128, seed=num_boxes)], MAP_SIZES)
        assert losses(predictions_of(maps_of_a_head(1)), targets)["ten"] == 1


def test_a_term_whose_total_does_not_exist_is_an_error():
    def lost(predictions, targets):
        return LossTerms({"lost": LossTerm(torch.tensor(1.0), "positivs")}, {})

    losses = FCOSLosses(levels=Levels(STRIDES), extra_terms=[lost])
    targets = seeded_model().assigner([random_instances(2, 96, 128)], MAP_SIZES)
    with pytest.raises(ValueError, match=r"'lost' .*'positivs'"):
        losses(predictions_of(maps_of_a_head(1)), targets)


def test_losses_by_hand():
    # One image, one level, and one box with one positive location, (16, 16).
    model = seeded_model(
        {
            "MODEL.FPN.IN_FEATURES": ["res5"],
            "MODEL.FCOS.IN_FEATURES": ["p5"],
            "MODEL.FCOS.SIZES_OF_INTEREST": [],
            "MODEL.FCOS.TOP_LEVELS": 0,
            "MODEL.FCOS.NUM_CLASSES": 1,
        }
    )
    instances = make_instances([[4.0, 4.0, 36.0, 28.0]], image_size=(64, 64))  # around (16, 16)
    targets = model.assigner([instances], [(2, 2)])
    maps = [[torch.zeros(1, channels, 2, 2)] for channels in (1, 4, 1)]
    maps[1][0].fill_(0.5)  # 16 px
    losses = model.losses(predictions_of(maps), targets)
    # Focal loss at logit 0: .25 * .25 * ln 2 for the positive, .75 * .25 * ln 2 for a negative.
    assert losses["loss_fcos_cls"].item() == pytest.approx(0.25 * 0.6931472 * (0.25 + 3 * 0.75))
    # The target is (12, 12, 20, 12), the prediction (16, 16, 16, 16): the intersection is 28 * 24,
    # the union 32 * 24 + 32 * 32 - 672 = 1120, the enclosing box 36 * 32 = 1152.
    giou = 672 / 1120 - (1152 - 1120) / 1152
    assert losses["loss_fcos_loc"].item() == pytest.approx(1 - giou, rel=1e-5)
    # The binary cross-entropy at logit 0 is ln 2 for any target.
    assert losses["loss_fcos_ctr"].item() == pytest.approx(0.6931472)


def test_the_moving_normalizer_divides_by_the_average_of_the_batches_so_far():
    plain = seeded_model()
    model = seeded_model("MODEL.FCOS.LOSS_NORMALIZER", "moving_fg")
    average = None
    for seed, num_boxes in enumerate((2, 12, 5)):
        inputs = [random_input(num_boxes, seed=seed)]
        instances = [x["instances"] for x in inputs]
        num = model.assigner(instances, MAP_SIZES).is_positive.sum().item()
        average = num if average is None else 0.9 * average + 0.1 * num
        expected = {name: value * num / average for name, value in plain(inputs).items()}
        for name, value in model(inputs).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    # A resumed run continues from this value.
    assert model.state_dict()["losses.moving_num_positives"].item() == pytest.approx(average)
    assert "losses.moving_num_positives" not in plain.state_dict()
