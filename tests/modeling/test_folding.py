"""FrozenBN in the weights of convolutions: the same maps and gradients, the same state dict."""

import copy
import io
from contextlib import nullcontext

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import build_model
from tiny import random_input, tiny_cfg
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fcos_d2.modeling.backbone.folding import fold_frozen_norms
from fcos_d2.modeling.backbone.timm_network import TimmBackbone

RESNET = ("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.FPN.NORM", "FrozenBN")
TIMM = ("MODEL.BACKBONE.NAME", "build_fcos_timm_fpn_backbone", "MODEL.TIMM.NORM", "FrozenBN")
NETWORKS = {
    "resnet": RESNET,
    "frozen stages": ("MODEL.BACKBONE.FREEZE_AT", 3),  # BN behind them
    "deformable": (*RESNET, "MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]),
    "basic blocks": (*RESNET, "MODEL.RESNETS.DEPTH", 18),
    "timm resnet": (*TIMM, "MODEL.TIMM.NAME", "resnet18"),
    "timm with activations": (*TIMM, "MODEL.TIMM.NAME", "tf_efficientnet_lite0"),
    "timm, pre-activation": (*TIMM, "MODEL.TIMM.NAME", "resnetv2_18"),
}


def frozen_norms(model):
    return [x for x in model.modules() if isinstance(x, FrozenBatchNorm2d)]


def model_with_statistics(*opts):
    if "build_fcos_timm_fpn_backbone" in opts:
        pytest.importorskip("timm")
    torch.manual_seed(0)
    model = build_model(tiny_cfg(*opts))
    for norm in frozen_norms(model):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.1)
    return model


def pair_of_models(name):
    folded, plain = (
        model_with_statistics(*NETWORKS[name], "MODEL.FCOS.FOLD_FROZEN_BN", fold)
        for fold in (True, False)
    )
    assert folded.state_dict().keys() == plain.state_dict().keys()
    return folded, plain


def pair_of(conv):
    """The convolution and its norm as one: what weights it forms and keeps."""
    return conv.forward.__self__


def assert_close_to_largest(a, b, tolerance=1e-5):
    assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_and_gradients_are_those_of_the_layers(name):
    folded, plain = pair_of_models(name)
    assert frozen_norms(folded)
    image = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        folded.eval(), plain.eval()
        for key, expected in plain.backbone(image).items():
            for _ in range(2):  # forms the weights, and has them
                assert_close_to_largest(folded.backbone(image)[key], expected)
    # In float64: ReLUs that rounding flips change gradients by more than rounding does.
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


def test_what_is_folded_and_what_is_not():
    calls = []
    # 53 of the ResNet, 6 of the FPN; layers stay behind the 3x3 convolutions of three stages.
    for name, num_layers in (("resnet", 0), ("deformable", 4 + 6 + 3)):
        model = pair_of_models(name)[0].eval()
        assert len(frozen_norms(model)) == 53 + 6
        for norm in frozen_norms(model):
            norm.register_forward_hook(lambda *_: calls.append(1))
        with torch.no_grad():
            model.backbone(torch.randn(1, 3, 64, 64))
        assert len(calls) == num_layers


def test_folded_weights_are_torchs():
    torch.manual_seed(0)
    for bias in (False, True):
        conv = Conv2d(4, 6, 3, bias=bias, groups=2, norm=FrozenBatchNorm2d(6))
        norm = conv.norm
        norm.running_mean.normal_(), norm.running_var.uniform_(), norm.weight.normal_()
        assert fold_frozen_norms(conv) == 1
        expected = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        for a, b in zip(pair_of(conv).form_weights(), expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["resnet", "timm resnet"])
def test_inference_leaves_weights_and_files_as_they_were(name):
    model = pair_of_models(name)[0].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model([random_input(0)])
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    file = io.BytesIO()
    torch.save(after, file)
    file.seek(0)
    model_with_statistics(*NETWORKS[name]).load_state_dict(torch.load(file))


def stem_of(model):
    return model.backbone.bottom_up.stem.conv1


@torch.no_grad()
def test_inference_folds_once_and_training_anew():
    model = pair_of_models("resnet")[0].eval()
    pair, image = pair_of(stem_of(model)), torch.randn(1, 3, 64, 64)
    model.backbone(image)
    kept = pair.form_weights()[0]
    model.backbone(image)
    assert pair.form_weights()[0] is kept
    for leave in (model.train, model.eval, model.float):
        leave()
        assert pair.kept is None
        model.eval().backbone(image)
        assert pair.kept is not None
    model.train().backbone(image)
    assert pair.kept is None  # nothing is kept in training


def test_gradients_reach_the_weights_in_eval_mode_too():
    model = pair_of_models("resnet")[0].eval()
    conv, image = stem_of(model), torch.randn(1, 3, 64, 64)
    conv.weight.requires_grad_()
    with torch.no_grad():
        model.backbone(image)
    model.backbone(image)["p3"].sum().backward()
    assert conv.weight.grad.abs().sum() > 0
    assert pair_of(conv).kept is None  # nothing with the graph of a gradient, or from before a step


def scale_all(tensors):
    for x in tensors:
        x.mul_(1.1)


def scaled_state(model):
    return {
        key: value * 1.1 if value.dtype.is_floating_point else value
        for key, value in model.state_dict().items()
    }


def replace_statistics(model):
    for norm in frozen_norms(model):
        norm.running_mean = norm.running_mean + 0.1


def replace_parameter(model):
    conv = stem_of(model)
    conv.weight = nn.Parameter(conv.weight * 1.1, conv.weight.requires_grad)


def replace_parameter_by_one_of_its_memory(model):
    conv = stem_of(model)
    num_writes = conv.weight._version
    conv.weight = nn.Parameter(conv.weight.data, conv.weight.requires_grad)
    for _ in range(num_writes):  # to the memory of both, and the new one counts from 0
        conv.weight.mul_(1.1)


def set_data(model):
    conv = stem_of(model)
    conv.weight.data = conv.weight.data * 1.1


def set_data_where_it_was(model):
    weight = stem_of(model).weight
    before = weight.data_ptr()
    for _ in range(20):  # the second one is mostly given the memory that the first has left
        weight.data = weight.data * 1.1
        if weight.data_ptr() == before:
            break


def transpose_data(model):
    conv = stem_of(model)
    conv.weight.data = conv.weight.data.transpose(2, 3)  # of the same storage


def set_eps(model):
    stem_of(model).norm.eps += 0.1


def step_fused(model):
    """PyTorch does not count what it writes."""
    with torch.enable_grad():
        model.backbone(torch.randn(1, 3, 64, 64))
    weights = [x for x in model.backbone.parameters() if x.requires_grad]
    for x in weights:
        x.grad = x.clone()
    torch.optim.SGD(weights, lr=0.1, fused=True).step()


def set_norm(model):
    stem_of(model).norm = nn.BatchNorm2d(8).eval()
    stem_of(model).norm.running_mean.normal_()


CHANGES = {
    "weights": lambda model: scale_all(
        x.weight for x in model.modules() if type(x) is type(stem_of(model))
    ),
    "statistics of norms": lambda model: scale_all(x.running_mean for x in frozen_norms(model)),
    "scales of norms": lambda model: scale_all(x.weight for x in frozen_norms(model)),
    "a loaded state dict": lambda model: model.load_state_dict(scaled_state(model)),
    "an assigned state dict": lambda model: model.load_state_dict(scaled_state(model), assign=True),
    "another parameter": replace_parameter,
    "another parameter of the same memory": replace_parameter_by_one_of_its_memory,
    "data that is set": set_data,
    "data that is set where it was": set_data_where_it_was,
    "data that is transposed": transpose_data,
    "other buffers": replace_statistics,
    "data that is changed, then eval": lambda model: (
        stem_of(model).weight.data.mul_(1.1),
        model.eval(),
    ),
    "a norm of another class": set_norm,
    "eps of a norm": set_eps,
    "a step of a fused optimizer": step_fused,
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_kept_weights_are_never_old_ones(change):
    model, image = model_with_statistics(*RESNET).eval(), torch.randn(1, 3, 64, 64)
    before = model.backbone(image)["p3"]
    for _ in range(2):  # a second time after what the first one left
        CHANGES[change](model)
        found = model.backbone(image)["p3"]
        assert_close_to_largest(found, copy.deepcopy(model).backbone(image)["p3"])  # folds anew
        assert (found - before).abs().max() > 1e-4 * before.abs().max()
        before = found


@torch.no_grad()
def test_another_type_or_memory_format_is_that_of_the_folded_weights():
    model, image = model_with_statistics(*RESNET).eval(), torch.randn(1, 3, 64, 64)
    model.backbone(image)
    expected = copy.deepcopy(model).double().backbone(image.double())["p3"]
    assert torch.equal(model.double().backbone(image.double())["p3"], expected)
    conv = model.to(memory_format=torch.contiguous_format).backbone.bottom_up.res2[0].conv2
    model.backbone(image.double())
    assert pair_of(conv).kept.folded[0].is_contiguous()
    model.to(memory_format=torch.channels_last).backbone(image.double())
    assert pair_of(conv).kept.folded[0].is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_parameters_of_a_functional_call_are_used():
    conv = Conv2d(3, 4, 3, norm=FrozenBatchNorm2d(4)).eval()
    fold_frozen_norms(conv)
    image = torch.randn(1, 3, 8, 8)
    for factor in (1.0, 2.0, 3.0):
        changed = {"weight": conv.weight * factor}
        found = torch.func.functional_call(conv, changed, (image,), strict=False)
        expected = nn.functional.conv2d(image, changed["weight"], conv.bias)
        expected = conv.norm(expected)
        assert_close_to_largest(found, expected)


@torch.no_grad()
def test_batched_parameters_of_a_functional_call_are_used():
    conv = Conv2d(3, 4, 3, norm=FrozenBatchNorm2d(4)).eval()
    fold_frozen_norms(conv)
    image, batched = torch.randn(1, 3, 8, 8), {"weight": torch.randn(2, 4, 3, 3, 3)}

    def run_twice(weights):
        for _ in range(2):
            out = torch.func.functional_call(conv, weights, (image,))
        return out

    for found, weight in zip(torch.vmap(run_twice)(batched), batched["weight"], strict=True):
        assert_close_to_largest(found, run_twice({"weight": weight}))


@torch.no_grad()
def test_fake_weights_are_not_kept():
    conv, image = Conv2d(3, 4, 3, norm=FrozenBatchNorm2d(4)).eval(), torch.randn(1, 3, 8, 8)
    fold_frozen_norms(conv)
    for expected_type in (FakeTensor, torch.Tensor, FakeTensor):
        is_fake = expected_type is FakeTensor
        with FakeTensorMode(allow_non_fake_inputs=True) if is_fake else nullcontext():
            assert type(conv(image)) is expected_type


def test_weights_made_in_inference_mode_are_never_old_ones():
    with torch.inference_mode():
        model, image = model_with_statistics(*RESNET).eval(), torch.randn(1, 3, 64, 64)
        before = model.backbone(image)["p3"]
        scale_all(x.weight for x in frozen_norms(model))
        found = model.backbone(image)["p3"]
        assert (found - before).abs().max() > 1e-4 * before.abs().max()


def test_kept_weights_are_no_part_of_copies_and_files(tmp_path):
    model = pair_of_models("resnet")[0].eval()
    with torch.no_grad():
        model.backbone(torch.randn(1, 3, 64, 64))
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    for other in (copy.deepcopy(model), loaded):
        assert pair_of(stem_of(other)).kept is None
    assert pair_of(stem_of(model)).kept is not None


def test_a_copy_folds_its_own_weights():
    model = pair_of_models("timm resnet")[0].eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.backbone(image)["p3"]
        other = copy.deepcopy(model)
        for norm in frozen_norms(other):
            norm.bias.add_(1.0)
        assert not torch.allclose(other.backbone(image)["p3"], expected, atol=1e-2)
        assert torch.equal(model.backbone(image)["p3"], expected)
    with torch.inference_mode():
        torch.testing.assert_close(model.backbone(image)["p3"], expected)


@pytest.mark.parametrize("path", ["conv1", "bn1", "layer1.0.conv2", "layer1.0.bn2"])
def test_another_module_in_place_of_one_of_a_pair_leaves_the_other_a_layer(path):
    (folded, plain), image = pair_of_models("timm resnet"), torch.randn(1, 3, 64, 64)
    parent, _, name = path.rpartition(".")
    with torch.no_grad():
        before = folded.eval().backbone(image)["p3"]
        other = copy.deepcopy(plain.eval().backbone.bottom_up.net.get_submodule(path))
        other.weight.normal_()
        for model in (folded, plain):
            setattr(model.backbone.bottom_up.net.get_submodule(parent), name, other)
        found, expected = (model.backbone(image)["p3"] for model in (folded, plain))
    assert_close_to_largest(found, expected)
    assert (found - before).abs().max() > 1e-4 * before.abs().max()


class MapsOf(nn.Module):
    """The maps in a tuple, which torch.jit.trace wants."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, image):
        return tuple(self.backbone(image).values())


@pytest.mark.parametrize("name", ["basic blocks", "timm resnet"])
def test_exported_and_traced_networks_start_from_the_raw_weights(name):
    model, image = pair_of_models(name)[0].eval(), torch.randn(1, 3, 64, 96)
    maps = MapsOf(model.backbone)
    with torch.no_grad():
        before = maps(image)[0]
        program = torch.export.export(maps, (image,))
        assert program.state_dict.keys() == maps.state_dict().keys()
        others = program.module(), torch.jit.trace(maps, image)
        for other in others:
            assert_close_to_largest(other(image)[0], before)
        scaled = scaled_state(maps)
        for other in (maps, *others):
            other.load_state_dict(scaled)
        after = maps(image)[0]
        assert (after - before).abs().max() > 1e-4 * before.abs().max()
        for other in others:
            assert_close_to_largest(other(image)[0], after)


class Shared(nn.Module):
    """A convolution whose output goes to its norm and elsewhere too."""

    __module__ = "timm.models.of_a_test"

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), FrozenBatchNorm2d(3)
        self.twice, self.behind = nn.Conv2d(3, 3, 1), FrozenBatchNorm2d(3)

    def forward(self, x):
        x = self.conv(x)
        return self.behind(self.twice(self.twice(self.norm(x) + x)))


class Untraceable(Shared):
    __module__ = "timm.models.of_a_test"

    def forward(self, x):
        return self.norm(self.conv(x)) if x.sum() > 0 else x


@pytest.mark.parametrize("network", [Shared, Untraceable])
def test_what_cannot_be_folded_stays(network):
    net = network()
    assert fold_frozen_norms(net) == 0
    assert not any("forward" in vars(x) for x in net.modules())


def test_a_forward_of_its_own_stays():
    conv = Conv2d(3, 4, 3, norm=FrozenBatchNorm2d(4))
    assert [fold_frozen_norms(conv), fold_frozen_norms(conv)] == [1, 0]
    conv = Conv2d(3, 4, 3, norm=FrozenBatchNorm2d(4))
    conv.forward = len
    assert fold_frozen_norms(conv) == 0
    assert conv.forward is len


def test_most_networks_of_timm_fold_all():
    pytest.importorskip("timm")
    net = TimmBackbone(name="mobilenetv3_small_050", norm="FrozenBN")
    assert fold_frozen_norms(net) == len(frozen_norms(net)) > 30
