"""The folded weights that inference keeps: they are never outdated, and are not copied or saved."""

import copy
from contextlib import nullcontext

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from frozen_models import (
    RESNET,
    assert_close_to_largest,
    frozen_norms,
    model_with_statistics,
    pair_of,
    pair_of_models,
    scale_all,
    scaled_state,
    stem_of,
)
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode

from fcos_d2.modeling.backbone.folding import fold_frozen_norms


@torch.no_grad()
def test_inference_folds_once_and_training_keeps_no_folded_weights():
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


def replace_statistics(model):
    for norm in frozen_norms(model):
        norm.running_mean = norm.running_mean + 0.1


def replace_parameter(model):
    conv = stem_of(model)
    conv.weight = nn.Parameter(conv.weight * 1.1, conv.weight.requires_grad)


def replace_parameter_by_one_with_the_same_memory(model):
    conv = stem_of(model)
    num_writes = conv.weight._version
    conv.weight = nn.Parameter(conv.weight.data, conv.weight.requires_grad)
    for _ in range(num_writes):  # After this, the version is the same as before.
        conv.weight.mul_(1.1)


def set_data(model):
    conv = stem_of(model)
    conv.weight.data = conv.weight.data * 1.1


def set_data_at_the_same_address(model):
    weight = stem_of(model).weight
    before = weight.data_ptr()
    for _ in range(20):  # The allocator soon returns the memory that was freed.
        weight.data = weight.data * 1.1
        if weight.data_ptr() == before:
            break


def transpose_data(model):
    conv = stem_of(model)
    conv.weight.data = conv.weight.data.transpose(2, 3)  # in the same storage


def set_eps(model):
    stem_of(model).norm.eps += 0.1


def step_fused(model):
    """Step a fused optimizer, whose writes PyTorch does not count."""
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
    "another parameter with the same memory": replace_parameter_by_one_with_the_same_memory,
    "data that is set": set_data,
    "data that is set at the same address": set_data_at_the_same_address,
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
def test_kept_weights_are_never_outdated(change):
    model, image = model_with_statistics(RESNET).eval(), torch.randn(1, 3, 64, 64)
    before = model.backbone(image)["p3"]
    for _ in range(2):  # A second change after the first one must have an effect too.
        CHANGES[change](model)
        after = model.backbone(image)["p3"]
        expected = copy.deepcopy(model).backbone(image)["p3"]  # A copy has no kept weights.
        assert_close_to_largest(after, expected)
        assert (after - before).abs().max() > 1e-4 * before.abs().max()
        before = after


@torch.no_grad()
def test_folded_weights_have_the_dtype_and_memory_format_of_the_model():
    model, image = model_with_statistics(RESNET).eval(), torch.randn(1, 3, 64, 64)
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
        output = torch.func.functional_call(conv, changed, (image,), strict=False)
        expected = conv.norm(nn.functional.conv2d(image, changed["weight"], conv.bias))
        assert_close_to_largest(output, expected)


@torch.no_grad()
def test_batched_parameters_of_a_functional_call_are_used():
    conv = Conv2d(3, 4, 3, norm=FrozenBatchNorm2d(4)).eval()
    fold_frozen_norms(conv)
    image, batched = torch.randn(1, 3, 8, 8), {"weight": torch.randn(2, 4, 3, 3, 3)}

    def run_twice(weights):
        for _ in range(2):
            out = torch.func.functional_call(conv, weights, (image,))
        return out

    for output, weight in zip(torch.vmap(run_twice)(batched), batched["weight"], strict=True):
        assert_close_to_largest(output, run_twice({"weight": weight}))


@torch.no_grad()
def test_fake_weights_are_not_kept():
    conv, image = Conv2d(3, 4, 3, norm=FrozenBatchNorm2d(4)).eval(), torch.randn(1, 3, 8, 8)
    fold_frozen_norms(conv)
    for expected_type in (FakeTensor, torch.Tensor, FakeTensor):
        is_fake = expected_type is FakeTensor
        with FakeTensorMode(allow_non_fake_inputs=True) if is_fake else nullcontext():
            assert type(conv(image)) is expected_type


def test_kept_weights_of_inference_mode_are_never_outdated():
    with torch.inference_mode():
        model, image = model_with_statistics(RESNET).eval(), torch.randn(1, 3, 64, 64)
        before = model.backbone(image)["p3"]
        scale_all(x.weight for x in frozen_norms(model))
        after = model.backbone(image)["p3"]
        assert (after - before).abs().max() > 1e-4 * before.abs().max()


def test_kept_weights_are_not_in_copies_and_files(tmp_path):
    model = pair_of_models("resnet")[0].eval()
    with torch.no_grad():
        model.backbone(torch.randn(1, 3, 64, 64))
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    for other in (copy.deepcopy(model), loaded):
        assert pair_of(stem_of(other)).kept is None
    assert pair_of(stem_of(model)).kept is not None


def test_a_copy_does_not_use_the_kept_weights_of_the_model():
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
