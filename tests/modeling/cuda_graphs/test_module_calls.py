"""Graphs of single modules, in models of any meta-architecture."""

import copy
import pickle

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from graph_recorders import CpuRecorder
from tiny import detector, random_input, seeded_model, tiny_cfg
from torch import nn

from fcos_d2.modeling import FCOS, Acceleration, acceleration, prepare_for_speed
from fcos_d2.modeling.cuda_graphs import graph_calls


def graph_modules(*modules, trains=True):
    """Graph the calls of modules with stand-ins, which are returned."""
    recorders = [CpuRecorder(module) for module in modules]
    for module, recorder in zip(modules, recorders, strict=True):
        graph_calls(module, trains=trains, recorder=recorder)
    return recorders


def num_launches(recorders):
    return [x.num_launches for x in recorders]


def build_retinanet():
    """Build detectron2's RetinaNet on our backbone."""
    torch.manual_seed(0)
    cfg = tiny_cfg({"MODEL.META_ARCHITECTURE": "RetinaNet", "MODEL.RETINANET.NUM_CLASSES": 5})
    return build_model(cfg)


def train(model, inputs):
    """Return losses and gradients of a step."""
    model.zero_grad()
    with EventStorage():
        losses = model.train()(inputs)
    sum(losses.values()).backward()
    return [*losses.values(), *(x.grad for x in model.parameters() if x.grad is not None)]


@pytest.mark.parametrize("build", [seeded_model, build_retinanet])
def test_backbone_and_head_are_graphed_in_other_models(build):
    model, expected = build(), build()
    recorders = graph_modules(model.backbone, model.head)
    for seed in range(4):
        inputs = [random_input(3, seed=seed), random_input(1, seed=seed + 9)]
        for a, b in zip(train(model, inputs), train(expected, inputs), strict=True):
            torch.testing.assert_close(a, b)
    assert num_launches(recorders) == [6, 6]
    with torch.no_grad():
        model.eval(), expected.eval()
        for _ in range(3):
            outputs = [x(inputs)[0]["instances"] for x in (model, expected)]
            torch.testing.assert_close(outputs[0].scores, outputs[1].scores)
    assert num_launches(recorders) == [8, 8]


def test_only_inference_is_graphed_on_request():
    model = detector()
    recorders = graph_modules(model.backbone, model.head, trains=False)
    inputs = [random_input(3)]
    for _ in range(3):
        train(model, inputs)
    assert num_launches(recorders) == [0, 0]
    with torch.no_grad():
        for _ in range(3):
            model.eval()(inputs)
    assert num_launches(recorders) == [2, 2]


class OwnLosses(FCOS):
    """An FCOS with its own training step."""

    def forward_training(self, images, features, predictions, gt_instances):
        losses = super().forward_training(images, features, predictions, gt_instances)
        return {**losses, "own": features[0].mean()}


def test_subclasses_with_their_own_steps_are_graphed_in_parts():
    model = seeded_model("MODEL.FCOS.CUDA_GRAPHS", "all")
    model.__class__ = OwnLosses
    recorders = graph_modules(model.backbone, model.head)
    for _ in range(3):
        results = train(model, [random_input(3)])
    assert num_launches(recorders) == [4, 4]
    assert len(results) == 4 + sum(x.requires_grad for x in model.parameters())


def test_features_of_several_calls_are_kept():
    backbone = seeded_model().backbone
    graph_modules(backbone)
    images = [torch.rand(1, 3, 96, 128) for _ in range(3)]
    with torch.no_grad():
        backbone(images[0])
        features = [backbone(x)["p3"] for x in images]
        for x, feature in zip(images, features, strict=True):
            torch.testing.assert_close(backbone.forward(x)["p3"], feature)


def test_calls_with_other_arguments_run_normally():
    head = seeded_model().head
    (recorder,) = graph_modules(head)
    features = [torch.randn(1, 64, 8, 8), torch.randn(1, 64, 4, 4)]
    with torch.no_grad():
        for _ in range(3):
            predictions = head(features, levels=[1, 2])
            assert head(features, [1, 2], with_tower_features=True).cls_features is not None
    assert len(predictions.cls_logits) == 2
    assert recorder.num_captures == 0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_not_graphed_and_names_stay(duplicate):
    network = nn.Sequential(nn.Linear(2, 3))
    names = list(network.state_dict())
    (recorder,) = graph_modules(network)
    copied = duplicate(network)
    with torch.no_grad():
        for _ in range(3):
            copied(torch.ones(1, 2))
    assert recorder.num_captures == 0
    assert list(network.state_dict()) == list(copied.state_dict()) == names


@pytest.mark.parametrize("value", ["none", "inference", "all"])
def test_prepare_for_speed_graphs_backbones_and_heads(value, monkeypatch):
    calls = []
    monkeypatch.setattr(
        acceleration, "graph_calls", lambda module, trains: calls.append((module, trains))
    )
    model = seeded_model()
    prepare_for_speed(model, Acceleration(cuda_graphs=value))
    expected = [(model.backbone, value == "all"), (model.head, value == "all")]
    assert calls == ([] if value == "none" else expected)


def test_a_compiled_network_is_graphed_with_its_compiled_call():
    network = nn.Linear(2, 3)
    network.compile(backend="eager")
    compiled = network._compiled_call_impl
    graph_calls(network, trains=True, recorder=CpuRecorder())
    assert network._compiled_call_impl.compiled is compiled


def test_configs_of_other_projects_work_without_the_key():
    assert "FCOS" not in get_cfg().MODEL  # such a project calls prepare_for_speed with values
    prepare_for_speed(nn.Sequential(nn.Conv2d(3, 4, 1)), Acceleration())
