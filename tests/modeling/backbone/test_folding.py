"""Folding of FrozenBN into convolutions: maps, gradients and state dict stay the same."""

import copy
import io

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from frozen_models import (
    NETWORKS,
    assert_close_to_largest,
    frozen_norms,
    model_with_statistics,
    pair_of,
    pair_of_models,
    scaled_state,
    stem_of,
)
from tiny import random_input
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fcos_d2.modeling.backbone.folding import fold_frozen_norms
from fcos_d2.modeling.backbone.timm_network import TimmBackbone


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_does_not_change_maps_and_gradients(name):
    folded, plain = pair_of_models(name)
    assert frozen_norms(folded)
    image = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        folded.eval(), plain.eval()
        for key, expected in plain.backbone(image).items():
            for _ in range(
                2
            ):  # The first call folds the weights, the second one uses the kept weights.
                assert_close_to_largest(folded.backbone(image)[key], expected)
    # Gradients are compared in float64: a rounding error at a ReLU can change them a lot.
    gradients = []
    for model in (folded, plain):
        maps = model.train().double().backbone(image.double())
        sum(x.square().sum() for x in maps.values()).backward()
        gradients.append({key: x.grad for key, x in model.backbone.named_parameters()})
    for key, expected in gradients[1].items():
        if expected is None:
            assert gradients[0][key] is None, key
        else:
            assert_close_to_largest(gradients[0][key], expected)


def test_all_norms_are_folded_but_those_after_deformable_convolutions(monkeypatch):
    calls, forward = [], FrozenBatchNorm2d.forward
    monkeypatch.setattr(
        FrozenBatchNorm2d, "forward", lambda norm, x: calls.append(1) or forward(norm, x)
    )
    # The ResNet has 53 norms and the FPN has 6. Norms after deformable 3x3 convolutions are called
    # as layers.
    for name, num_layers in (("resnet", 0), ("deformable", 4 + 6 + 3)):
        model = pair_of_models(name)[0].eval()
        assert len(frozen_norms(model)) == 53 + 6
        with torch.no_grad():
            model.backbone(torch.randn(1, 3, 64, 64))
        assert len(calls) == num_layers


@pytest.mark.parametrize("name", ["resnet", "timm resnet", "timm with activations"])
def test_hooks_of_a_folded_norm_are_called_with_the_maps_of_the_norm(name):
    folded, plain = (model.eval() for model in pair_of_models(name))
    image, seen = torch.randn(1, 3, 64, 64), []
    handles = [
        frozen_norms(model)[3].register_forward_hook(lambda _, args, y: seen.append((args[0], y)))
        for model in (folded, plain)
    ]
    with torch.no_grad():
        for model in (folded, plain):
            model.backbone(image)
        for in_folded, in_plain in zip(*seen, strict=True):
            assert_close_to_largest(in_folded, in_plain)
        for handle in handles:
            handle.remove()
        folded.backbone(image)  # folded again
        assert len(seen) == 2


def test_a_hook_of_a_convolution_of_timm_gets_its_output_before_the_norm():
    folded, plain = (model.eval() for model in pair_of_models("timm resnet"))
    seen = []
    for model in (folded, plain):
        conv = model.backbone.bottom_up.net.conv1
        conv.register_forward_hook(lambda module, args, y: seen.append(y))
        with torch.no_grad():
            model.backbone(torch.ones(1, 3, 64, 64))
    assert_close_to_largest(*seen)


def test_folded_weights_equal_those_of_torch():
    torch.manual_seed(0)
    for bias in (False, True):
        conv = Conv2d(4, 6, 3, bias=bias, groups=2, norm=FrozenBatchNorm2d(6))
        norm = conv.norm
        norm.running_mean.normal_(), norm.running_var.uniform_(), norm.weight.normal_()
        assert fold_frozen_norms(conv) == 1
        statistics = (norm.running_mean, norm.running_var, norm.eps)
        expected = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, norm.weight, norm.bias)
        for a, b in zip(pair_of(conv).form_weights(), expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["resnet", "timm resnet"])
def test_inference_does_not_change_weights_and_the_file_can_be_loaded(name):
    model = pair_of_models(name)[0].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model([random_input(0)])
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    file = io.BytesIO()
    torch.save(after, file)
    file.seek(0)
    model_with_statistics(NETWORKS[name]).load_state_dict(torch.load(file))


def test_gradients_reach_the_weights_in_eval_mode_too():
    model = pair_of_models("resnet")[0].eval()
    conv, image = stem_of(model), torch.randn(1, 3, 64, 64)
    conv.weight.requires_grad_()
    with torch.no_grad():
        model.backbone(image)
    model.backbone(image)["p3"].sum().backward()
    assert conv.weight.grad.abs().sum() > 0
    assert pair_of(conv).kept is None  # Folded weights with gradients are not kept.


@pytest.mark.parametrize("path", ["conv1", "bn1", "layer1.0.conv2", "layer1.0.bn2"])
def test_after_replacing_a_convolution_or_norm_the_new_module_is_used(path):
    (folded, plain), image = pair_of_models("timm resnet"), torch.randn(1, 3, 64, 64)
    parent, _, name = path.rpartition(".")
    with torch.no_grad():
        before = folded.eval().backbone(image)["p3"]
        new_module = copy.deepcopy(plain.eval().backbone.bottom_up.net.get_submodule(path))
        new_module.weight.normal_()
        for model in (folded, plain):
            setattr(model.backbone.bottom_up.net.get_submodule(parent), name, new_module)
        after, expected = (model.backbone(image)["p3"] for model in (folded, plain))
    assert_close_to_largest(after, expected)
    assert (after - before).abs().max() > 1e-4 * before.abs().max()


class MapsOf(nn.Module):
    """A module that returns the maps as a tuple, because torch.jit.trace accepts no dict."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, image):
        return tuple(self.backbone(image).values())


@pytest.mark.parametrize("name", ["basic blocks", "timm resnet"])
def test_exported_and_traced_networks_fold_the_weights_that_they_load(name):
    model, image = pair_of_models(name)[0].eval(), torch.randn(1, 3, 64, 96)
    maps = MapsOf(model.backbone)
    with torch.no_grad():
        before = maps(image)[0]
        program = torch.export.export(maps, (image,))
        assert program.state_dict.keys() == maps.state_dict().keys()
        exported, traced = program.module(), torch.jit.trace(maps, image)
        for network in (exported, traced):
            assert_close_to_largest(network(image)[0], before)
        scaled = scaled_state(maps)
        for network in (maps, exported, traced):
            network.load_state_dict(scaled)
        after = maps(image)[0]
        assert (after - before).abs().max() > 1e-4 * before.abs().max()
        for network in (exported, traced):
            assert_close_to_largest(network(image)[0], after)


class Shared(nn.Module):
    """A network with a convolution that is used twice, and one whose output is used twice."""

    __module__ = "timm.models.of_a_test"

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), FrozenBatchNorm2d(3)
        self.twice, self.last_norm = nn.Conv2d(3, 3, 1), FrozenBatchNorm2d(3)

    def forward(self, x):
        x = self.conv(x)
        return self.last_norm(self.twice(self.twice(self.norm(x) + x)))


class Untraceable(Shared):
    """A network that torch.fx cannot trace, because its path depends on values."""

    __module__ = "timm.models.of_a_test"

    def forward(self, x):
        return self.norm(self.conv(x)) if x.sum() > 0 else x


@pytest.mark.parametrize("network", [Shared, Untraceable])
def test_networks_that_cannot_be_folded_are_not_changed(network):
    net = network()
    assert fold_frozen_norms(net) == 0
    assert not any("forward" in vars(x) for x in net.modules())


def test_a_forward_method_that_was_replaced_before_is_not_changed():
    conv = Conv2d(3, 4, 3, norm=FrozenBatchNorm2d(4))
    assert [fold_frozen_norms(conv), fold_frozen_norms(conv)] == [1, 0]
    conv = Conv2d(3, 4, 3, norm=FrozenBatchNorm2d(4))
    conv.forward = len
    assert fold_frozen_norms(conv) == 0
    assert conv.forward is len


def test_all_norms_of_a_network_of_timm_are_folded():
    pytest.importorskip("timm")
    net = TimmBackbone(name="mobilenetv3_small_050", norm="FrozenBN")
    assert fold_frozen_norms(net) == len(frozen_norms(net)) > 30
