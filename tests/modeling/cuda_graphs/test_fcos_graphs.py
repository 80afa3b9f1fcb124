"""Graphs of a whole FCOS: losses, gradients and detections are those without graphs."""

import copy
import gc
import weakref

import pytest
import torch
from detectron2.structures import Boxes
from graph_recorders import DEVICES, make_recorder
from input_errors import input_error
from measuring import Work, count_host_waits
from tiny import (
    MAP_SIZES,
    detector,
    make_instances,
    random_input,
    random_instances,
    seeded_model,
)

from fcos_d2.modeling import FCOS, FCOSAssigner, FCOSDenseHead
from fcos_d2.modeling.cuda_graphs import FCOSGraphs
from fcos_d2.modeling.cuda_graphs.fcos_graphs import pad_annotations
from fcos_d2.modeling.losses import LossTerms
from fcos_d2.modeling.postprocessing import FCOSPostProcessor

SIZES = [(96, 128), (64, 96), (96, 128), (64, 96), (96, 128), (96, 96), (64, 96)]


def add_graphs(model, device, trains=True):
    model.to(device)
    model.graphs = FCOSGraphs(trains=trains, recorder=make_recorder(device, model))
    return model


def draw_inputs(size, seed):
    return [random_input(3 + seed, *size, seed=seed), random_input(seed % 3, *size, seed=seed + 9)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_training_steps_of_changing_sizes_are_those_without_graphs(device, dtype):
    expected = seeded_model("MODEL.RESNETS.NORM", "BN").to(device)
    graphed = add_graphs(copy.deepcopy(expected), device)
    models = (graphed, expected)
    optimizers = [torch.optim.SGD(x.parameters(), lr=0.01, momentum=0.9) for x in models]
    for step, size in enumerate(SIZES):
        losses = []
        for model, optimizer in zip(models, optimizers, strict=True):
            with torch.autocast(device, dtype, enabled=dtype is not None):
                losses.append(model(draw_inputs(size, step)))
            optimizer.zero_grad()
            sum(losses[-1].values()).backward()
            optimizer.step()
        for name, value in losses[1].items():
            torch.testing.assert_close(losses[0][name], value, rtol=1e-4, atol=1e-5)
    assert graphed.graphs.training.num_recordings == 2
    for (name, a), b in zip(
        graphed.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_images", [1, 2])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_detections_are_those_without_graphs(device, num_images, class_agnostic):
    expected = detector("MODEL.FCOS.CLASS_AGNOSTIC_NMS", class_agnostic).to(device)
    graphed = add_graphs(copy.deepcopy(expected), device)
    for step, size in enumerate(SIZES):
        inputs = draw_inputs(size, step)[:num_images]
        for x in inputs:
            x["height"], x["width"] = 200, 333
        with torch.no_grad():
            results, expected_results = graphed(inputs), expected(inputs)
        for a, b in zip(results, expected_results, strict=True):
            a, b = a["instances"], b["instances"]
            assert a.image_size == b.image_size
            assert len(b) > 10
            assert torch.equal(a.pred_classes, b.pred_classes)
            torch.testing.assert_close(a.scores, b.scores)
            torch.testing.assert_close(a.pred_boxes.tensor, b.pred_boxes.tensor)
    assert graphed.graphs.inference.num_recordings == 2


def test_padding_changes_no_loss_and_no_gradient():
    model = seeded_model()
    features = [torch.randn(2, 64, h, w) for h, w in MAP_SIZES]
    instances = [random_instances(3, 96, 128), random_instances(0, 96, 128)]
    boxes, classes = pad_annotations(instances)
    assert boxes.shape == (2, 128, 4)
    assert classes.shape == (2, 128)
    padded = [make_instances(*x, (96, 128)) for x in zip(boxes, classes, strict=True)]
    results = []
    for annotations in (padded, instances):
        leaves = [x.clone().requires_grad_() for x in features]
        predictions = model.dense_head.predict(leaves)
        losses = model.dense_head.compute_losses(predictions, annotations, [(96, 128)] * 2)
        sum(losses.values()).backward()
        results.append([*losses.values(), *(x.grad for x in leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_there_is_room_for_any_number_of_boxes():
    for most, room in ((0, 128), (128, 128), (129, 256), (600, 1024)):
        boxes, _ = pad_annotations([random_instances(most, 96, 128), random_instances(1, 96, 128)])
        assert boxes.shape == (2, room, 4)


def test_statistics_for_logging_are_those_of_the_last_batch():
    model = add_graphs(seeded_model(), "cpu")
    for seed in range(3):
        inputs = draw_inputs((96, 128), seed)
        sum(model(inputs).values()).backward()
    expected = seeded_model()
    expected.load_state_dict(model.state_dict())
    sum(expected(inputs).values()).backward()
    observed, others = model.losses.observed, expected.losses.observed
    assert observed.is_positive.sum() == others.is_positive.sum() > 0
    torch.testing.assert_close(observed.loss_quality, others.loss_quality)


def test_statistics_of_an_earlier_batch_are_kept():
    model = add_graphs(seeded_model(), "cpu")
    kept = []
    for seed in range(4):
        sum(model(draw_inputs((96, 128), seed)).values()).backward()
        kept.append((model.losses.observed, model.losses.observed.quality.clone()))
    for observed, quality in kept:
        assert torch.equal(observed.quality, quality)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.assigner, "center_sampling_radius", 0.7),
        lambda m: setattr(m.assigner, "size_ranges", [(0, 32), *m.assigner.size_ranges[1:]]),
        lambda m: setattr(m.losses, "focal_loss_gamma", 1.0),
        lambda m: setattr(m.losses, "loc_loss_type", "iou"),
    ],
)
def test_changed_settings_of_training_are_used(change):
    graphed, expected = add_graphs(seeded_model(), "cpu"), seeded_model()
    for step in range(5):
        if step == 2:
            change(graphed), change(expected)
        losses, others = (x(draw_inputs((96, 128), 1)) for x in (graphed, expected))
        for name, value in others.items():
            torch.testing.assert_close(losses[name], value)
        sum(losses.values()).backward()
    assert graphed.graphs.training.num_recordings == 2


@pytest.mark.parametrize("normalizer", ["fg", "moving_fg", "all"])
@pytest.mark.parametrize("quality", ["centerness", "iou", "none"])
def test_all_losses_are_those_without_graphs(normalizer, quality):
    opts = {"MODEL.FCOS.LOSS_NORMALIZER": normalizer, "MODEL.FCOS.BOX_QUALITY": quality}
    graphed, expected = add_graphs(seeded_model(opts), "cpu"), seeded_model(opts)
    for seed in range(4):
        losses, others = (x(draw_inputs((96, 128), seed)) for x in (graphed, expected))
        assert losses.keys() == others.keys()
        for name, value in others.items():
            torch.testing.assert_close(losses[name], value)
        sum(losses.values()).backward()
    assert graphed.graphs.recorder.num_launches == 6  # three steps
    if normalizer == "moving_fg":
        a, b = graphed.losses.moving_num_positives, expected.losses.moving_num_positives
        torch.testing.assert_close(a, b)


def uses_graphs(model, inputs, monkeypatch):
    """Train and detect three times, and return whether the graphs of the model were used."""
    used = []
    for name in ("compute_loss_terms", "rank_candidates"):
        original = getattr(FCOSGraphs, name)
        monkeypatch.setattr(
            FCOSGraphs, name, lambda *args, name=name, f=original: used.append(name) or f(*args)
        )
    sum(model.train()(inputs).values()).backward()
    with torch.no_grad():
        model.eval()(inputs)
    return used


def replace(name, value):
    return lambda model: setattr(model, name, value(model))


class OtherAssigner(FCOSAssigner):
    """An assigner that might do anything."""


class OtherPostProcessor(FCOSPostProcessor):
    """A post-processor that might do anything."""


BOTH = ["compute_loss_terms", "rank_candidates"]


@pytest.mark.parametrize(
    ("opts", "change", "expected"),
    [
        ({}, None, BOTH),
        ({"MODEL.FCOS.CENTER_SAMPLING_RADIUS": 0.0}, None, BOTH[1:]),
        ({"MODEL.FCOS.CENTER_SAMPLING_RADIUS": 9.0}, None, BOTH[1:]),
        ({}, replace("assigner", lambda m: OtherAssigner(levels=m.levels)), BOTH[1:]),
        ({}, replace("postprocessor", lambda m: OtherPostProcessor(levels=m.levels)), BOTH[:1]),
        (
            {},
            replace("forward_training", lambda m: lambda *a: FCOS.forward_training(m, *a)),
            BOTH[1:],
        ),
        (
            {},
            replace("forward_inference", lambda m: lambda *a: FCOS.forward_inference(m, *a)),
            BOTH[:1],
        ),
        ({}, lambda m: setattr(m.graphs, "trains", False), BOTH[1:]),
    ],
)
def test_only_known_parts_are_graphed(opts, change, expected, monkeypatch):
    model = add_graphs(seeded_model(opts), "cpu")
    if change:
        change(model)
    assert uses_graphs(model, draw_inputs((96, 128), 1), monkeypatch) == expected


class DoubledLosses(FCOSDenseHead):
    """A dense head with its own losses and detections."""

    def compute_losses(self, *args):
        return {name: 2 * x for name, x in super().compute_losses(*args).items()}

    def detect(self, *args):
        return [x[:1] for x in super().detect(*args)]


def test_a_dense_head_with_its_own_steps_is_not_graphed(monkeypatch):
    model = add_graphs(detector(), "cpu")
    model.dense_head_type = DoubledLosses
    inputs = draw_inputs((96, 128), 1)
    assert uses_graphs(model, inputs, monkeypatch) == []
    with torch.no_grad():
        assert [len(x["instances"]) for x in model(inputs)] == [1, 1]


def test_hooks_of_the_losses_are_called(monkeypatch):
    model = add_graphs(seeded_model(), "cpu")
    calls = []
    model.losses.register_forward_hook(lambda *_: calls.append(1))
    assert uses_graphs(model, draw_inputs((96, 128), 1), monkeypatch) == BOTH[1:]
    assert calls == [1]


@pytest.mark.parametrize("shift", [0.0, -0.5])
def test_score_functions_of_users_are_recorded_each(shift):
    model = add_graphs(detector("TEST.DETECTIONS_PER_IMAGE", 1000), "cpu")
    expected = copy.deepcopy(model)
    expected.graphs = None
    inputs = draw_inputs((96, 128), 1)
    for factor in (0.3, 0.6, 0.9):
        for x in (model, expected):
            x.postprocessor.score_function = lambda p, _, f=factor: p * f + shift
        with torch.no_grad():
            for _ in range(3):
                found, other = (x(inputs)[0]["instances"] for x in (model, expected))
        assert len(found) == len(other) > 100
        torch.testing.assert_close(found.scores, other.scores)


def test_a_part_with_a_setting_that_has_no_hash_is_recorded():
    model = add_graphs(seeded_model(), "cpu")
    model.assigner.notes = {"a": 1}
    for seed in range(3):
        sum(model(draw_inputs((96, 128), seed)).values()).backward()
    assert model.graphs.training.num_recordings == 1


def test_a_model_that_is_deleted_is_freed_at_once():
    model = add_graphs(seeded_model(), "cpu")
    for seed in range(3):
        sum(model(draw_inputs((96, 128), seed)).values()).backward()
    known = weakref.ref(model)
    model.graphs.recorder.modules = ()  # of the stand-in
    gc.disable()
    try:
        del model
        assert known() is None
    finally:
        gc.enable()


def test_extra_losses_and_ignored_boxes_are_not_graphed(monkeypatch):
    model = add_graphs(seeded_model(), "cpu")
    inputs = draw_inputs((96, 128), 1)
    inputs[0]["gt_ignore_boxes"] = Boxes(torch.tensor([[0.0, 0.0, 50.0, 50.0]]))
    assert uses_graphs(model, inputs, monkeypatch) == BOTH[1:]
    model = add_graphs(seeded_model(), "cpu")
    model.losses.extra_terms = (lambda *_: LossTerms({}, {}),)
    assert uses_graphs(model, draw_inputs((96, 128), 1), monkeypatch) == BOTH[1:]


def test_changed_thresholds_are_used():
    model = add_graphs(detector("TEST.DETECTIONS_PER_IMAGE", 10000), "cpu")
    inputs = draw_inputs((96, 128), 1)
    counts = []
    with torch.no_grad():
        for threshold in (0.05, 0.5, 0.05):
            model.postprocessor.score_thresh_test = threshold
            counts += [len(model(inputs)[0]["instances"]) for _ in range(3)]
    assert len(set(counts[:3])) == len(set(counts[3:6])) == 1
    assert counts[:3] == counts[6:]
    assert counts[0] > counts[3] > 0


def test_few_values_are_read_on_the_host():
    model = add_graphs(detector(), "cpu")
    for num_images in (1, 2):
        inputs = draw_inputs((96, 128), 1)[:num_images]
        with torch.no_grad():
            model(inputs), model(inputs)
            images = model.preprocess_image(inputs)
            sizes = [(96, 128)] * num_images
            ranked = model.graphs.rank_candidates(model, images, sizes)
            waits = count_host_waits(
                Work(lambda _, x=(ranked, sizes): model.postprocessor.suppress_ranked(*x))
            )
        # The counts; a GPU also waits for NMS, once for each image. (Each number is a read here.)
        assert waits <= 2 + num_images


def test_values_that_are_not_finite_are_warned_of(caplog):
    model = add_graphs(detector(), "cpu")
    with torch.no_grad():
        model.head.bbox_pred.bias[0] = float("nan")
        for _ in range(3):
            (output,) = model(draw_inputs((96, 128), 1)[:1])
    assert len(output["instances"]) == 0
    (record,) = caplog.records
    assert "NaN or infinite" in record.getMessage()


@pytest.mark.parametrize("num_boxes", [100, 5])
def test_extra_outputs_are_fields_of_the_detections(num_boxes):
    model = detector("TEST.DETECTIONS_PER_IMAGE", num_boxes)
    head_forward = model.head.forward

    def forward(features):
        predictions = head_forward(features)
        maps = [torch.cat([x, x * 2], dim=1) for x in predictions.quality_logits]
        return predictions._replace(extra={"mask_parameters": maps})

    model.head.forward = forward
    inputs = draw_inputs((96, 128), 1)
    with torch.no_grad():
        expected = model(inputs)
        add_graphs(model, "cpu")
        for _ in range(3):
            results = model(inputs)
    for a, b in zip(results, expected, strict=True):
        a, b = a["instances"], b["instances"]
        assert len(a) == num_boxes or len(b) > 5
        torch.testing.assert_close(a.mask_parameters, b.mask_parameters)


@pytest.mark.parametrize("value", ["none", "inference", "all"])
def test_the_key_selects_what_is_graphed_and_changes_no_name(value):
    model = seeded_model("MODEL.FCOS.CUDA_GRAPHS", value)
    assert (model.graphs is not None) == (value != "none")
    assert value == "none" or model.graphs.trains == (value == "all")
    assert model.state_dict().keys() == seeded_model().state_dict().keys()
    copied = copy.deepcopy(model)
    assert value == "none" or copied.graphs.recorder is not model.graphs.recorder
    inputs = draw_inputs((96, 128), 1)  # on a CPU, nothing changes
    expected = seeded_model()(inputs)
    for _ in range(3):
        losses = model(inputs)
    for name, x in expected.items():
        assert torch.equal(losses[name], x)


def test_another_value_of_the_key_is_an_error():
    with input_error(key="MODEL.FCOS.CUDA_GRAPHS", value="training"):
        seeded_model("MODEL.FCOS.CUDA_GRAPHS", "training")
