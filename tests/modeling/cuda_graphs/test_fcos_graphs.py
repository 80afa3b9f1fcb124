"""Graphs of a whole FCOS: losses, gradients and detections are those without graphs."""

import copy

import pytest
import torch
from graph_recorders import DEVICES, make_recorder
from tiny import detector, random_input, random_instances, seeded_model

from fcos_d2.modeling.cuda_graphs import FCOSGraphs
from fcos_d2.modeling.cuda_graphs.fcos_graphs import pad_annotations

SIZES = [(96, 128), (64, 96), (96, 128), (64, 96), (96, 128), (96, 96), (64, 96)]


def add_graphs(model, device, trains=True):
    model.to(device)
    model.graphs = FCOSGraphs(model, trains=trains, recorder=make_recorder(device, model))
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
    assert len(graphed.graphs._train.recordings) == 2
    for (name, a), b in zip(
        graphed.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_images", [1, 2])
def test_detections_are_those_without_graphs(device, num_images):
    expected = detector().to(device)
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
    assert len(graphed.graphs._detect.recordings) == 2


def test_padding_changes_no_loss_and_no_gradient():
    model = seeded_model()
    features = [torch.randn(2, 64, h, w) for h, w in ((12, 16), (6, 8), (3, 4), (2, 2), (1, 1))]
    instances = [random_instances(3, 96, 128), random_instances(0, 96, 128)]
    boxes, classes = pad_annotations(instances)
    assert boxes.shape == (2, 128, 4)
    assert classes.shape == (2, 128)
