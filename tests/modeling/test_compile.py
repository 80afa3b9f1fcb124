"""Compiling backbone and head: the losses are the same, and image sizes share the graphs."""

import copy
import shutil

import pytest
import torch
from tiny import random_input, seeded_model
from torch import nn

# Every map has at least two cells along each side, because PyTorch makes separate graphs for one.
SIZES = [(64, 96), (96, 64), (128, 160), (192, 64), (96, 128)]
FEW_LAYERS = {
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.FCOS.TOP_LEVELS": 0,
    "MODEL.FCOS.IN_FEATURES": ["p3", "p4", "p5"],
    "MODEL.FCOS.SIZES_OF_INTEREST": [64, 128],
    "MODEL.FCOS.CHANNELS_LAST": True,
}


@pytest.fixture
def graphs(monkeypatch):
    """Return the list of graphs that are made from now on, which are not compiled further."""
    collected = []

    def keep(graph, _):
        collected.append(graph)
        return graph.forward

    compile_module = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **kw: compile_module(self, backend=keep, **kw)
    )
    torch.compiler.reset()
    yield collected
    torch.compiler.reset()


def compiled_and_plain():
    """Build a model that is compiled, and the same model without compilation."""
    compiled, plain = (seeded_model(FEW_LAYERS, "MODEL.FCOS.COMPILE", x) for x in (True, False))
    plain.load_state_dict(compiled.state_dict())
    return compiled, plain


def assert_same_gradients_and_scores(compiled, plain, losses, expected, inputs):
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for a, b in zip(compiled.parameters(), plain.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        scores, expected = (
            model.eval()(inputs)[0]["instances"].scores for model in (compiled, plain)
        )
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_images_of_all_sizes_share_one_graph_per_network(graphs):
    compiled, plain = compiled_and_plain()
    num_graphs = []
    for height, width in SIZES:
        inputs = [random_input(2, height, width), random_input(1, height, width, seed=1)]
        losses, expected = compiled(inputs), plain(inputs)
        for name, value in expected.items():
            torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)
        num_graphs.append(len(graphs))
    assert num_graphs[0] == 2  # backbone and head, each in one piece
    assert num_graphs[-1] == num_graphs[1] <= 4
    assert_same_gradients_and_scores(compiled, plain, losses, expected, inputs[:1])
    assert copy.deepcopy(compiled).state_dict().keys() == plain.state_dict().keys()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_machine_code_computes_the_same():
    torch.compiler.reset()
    compiled, plain = compiled_and_plain()
    inputs = [random_input(2, 64, 96), random_input(1, 64, 96, seed=1)]
    losses, expected = compiled(inputs), plain(inputs)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)
    assert_same_gradients_and_scores(compiled, plain, losses, expected, inputs[:1])


@pytest.mark.parametrize("compiles", [False, True])
def test_the_setting_compiles_only_backbone_and_head(monkeypatch, compiles):
    calls = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **kw: calls.append((self, kw)))
    model = seeded_model(FEW_LAYERS, "MODEL.FCOS.COMPILE", compiles)
    expected = [(part, {"dynamic": True}) for part in (model.backbone, model.head)]
    assert calls == (expected if compiles else [])
