"""Deformable convolutions: samples, initial weights, and equality with other implementations."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone import resnet
from key_lists import adelaidet_keys, shapes_of
from tiny import random_tensor
from torchvision.ops import DeformConv2d

from fcos_d2.errors import InputError
from fcos_d2.modeling.layers.deformable import DeformableConv, DeformBottleneck, sample_and_convolve

BLOCK = {"bottleneck_channels": 8, "norm": "BN"}
BOTH = pytest.mark.parametrize("modulated", [True, False])


def randomize(module, seed=0):
    """Replace all parameters by random ones, so that none is zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def test_the_layer_starts_as_half_of_a_plain_convolution():
    layer = DeformableConv(4, 6)
    x = random_tensor(2, 4, 7, 5)
    # The initial masks are 0.5, and do not apply to the bias.
    half = F.conv2d(x, 0.5 * layer.conv.weight, layer.conv.bias, padding=1)
    torch.testing.assert_close(layer(x), half)


def test_shifts_by_whole_cells_shift_the_map():
    # Every sample is shifted down by 1 row and left by 2 columns; the masks are 0.5.
    layer = DeformableConv(4, 6)
    layer.offset.bias.data[0:18:2] = 1
    layer.offset.bias.data[1:18:2] = -2
    x = random_tensor(1, 4, 9, 8)
    wide = F.pad(x, (3, 1, 1, 2))  # zeros for the padding and for the shift
    shifted = F.conv2d(wide, 0.5 * layer.conv.weight, layer.conv.bias)[:, :, 1:, :8]
    torch.testing.assert_close(layer(x), shifted)


def test_a_shift_by_half_a_cell_samples_the_mean_of_two_cells():
    layer = DeformableConv(1, 1)
    layer.conv.weight.data.zero_()
    layer.conv.weight.data[0, 0, 1, 1] = 2  # multiplied by the mask of 0.5
    layer.conv.bias.data.zero_()
    layer.offset.bias.data[9] = 0.5  # dx of the fifth sample: its (dy, dx) are the channels 8 and 9
    x = torch.tensor([[[[1.0, 3.0, 9.0]]]])
    assert layer(x).tolist() == [[[[2.0, 6.0, 4.5]]]]  # outside is 0


def test_the_last_third_of_the_channels_are_masks():
    layer = DeformableConv(4, 6)
    layer.offset.bias.data[18:] = 40.0  # The masks are 1.
    x = random_tensor(1, 4, 7, 5)
    torch.testing.assert_close(layer(x), layer.conv(x))
    layer.offset.bias.data[18:] = -40.0
    torch.testing.assert_close(layer(x), layer.conv.bias[:, None, None].expand(1, 6, 7, 5))


def test_offsets_get_gradients_from_the_start():
    layer = DeformableConv(4, 6)
    layer(random_tensor(1, 4, 7, 5)).square().sum().backward()
    assert layer.offset.bias.grad[:18].abs().min() > 0
    assert layer.offset.bias.grad[18:].abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_layer_samples_in_float32_under_autocast(dtype, monkeypatch):
    dtypes = []
    op = torch.ops.torchvision.deform_conv2d

    def watch(x, offset, weight, bias, *, mask, stride, padding, dilation):
        dtypes.extend(t.dtype for t in (x, offset, weight, bias, mask))
        return op(x, weight, offset, mask, bias, *stride, *padding, *dilation, 1, 1, True)

    monkeypatch.setattr("fcos_d2.modeling.layers.deformable.deform_conv2d", watch)
    layer = randomize(DeformableConv(4, 6))
    x = random_tensor(2, 4, 7, 5)
    with torch.autocast("cpu", dtype=dtype):
        full, half = layer(x), layer(x.to(dtype))
    assert set(dtypes) == {torch.float32}
    assert (full.dtype, half.dtype) == (torch.float32, dtype)
    for result in (full, half):
        torch.testing.assert_close(result.float(), layer(x), rtol=0.1, atol=0.1)
    (full.sum() + half.float().sum()).backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_the_layer_computes_in_bfloat16_and_float64_too():
    layer = randomize(DeformableConv(4, 6))
    x = random_tensor(1, 4, 7, 5)
    expected = layer(x)
    torch.testing.assert_close(layer.double()(x.double()).float(), expected)
    result = layer.bfloat16()(x.bfloat16())
    torch.testing.assert_close(result.float(), expected, rtol=0.1, atol=0.1)


def test_a_batch_without_images_is_accepted():
    assert DeformableConv(4, 6)(torch.zeros(0, 4, 7, 5)).shape == (0, 6, 7, 5)


class StandIn(DeformConv2d):
    """A replacement for detectron2's compiled layers, with the same arguments and names."""

    def __init__(self, *args, deformable_groups, norm, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm = norm

    def forward(self, x, offset, mask=None):
        return self.norm(super().forward(x, offset, mask))


@BOTH
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "stride_in_1x1": True},
        {"stride": 2, "num_groups": 2, "deform_num_groups": 2},
        {"dilation": 2},
    ],
)
def test_the_block_computes_the_same_as_detectron2s_block(modulated, options, monkeypatch):
    monkeypatch.setattr(resnet, "DeformConv", StandIn)
    monkeypatch.setattr(resnet, "ModulatedDeformConv", StandIn)
    options = {**BLOCK, **options, "deform_modulated": modulated}
    block = randomize(DeformBottleneck(16, 32, **options))
    expected = resnet.DeformBottleneckBlock(16, 32, **options)
    expected.load_state_dict(block.state_dict())  # strict: names and shapes are the same
    x = random_tensor(2, 16, 9, 8)
    torch.testing.assert_close(block(x), expected(x))
    assert block.stride == expected.stride


@BOTH
def test_the_block_starts_with_zero_offsets_and_trains_under_autocast(modulated):
    block = DeformBottleneck(16, 32, **BLOCK, stride=2, deform_modulated=modulated)
    assert block.conv2_offset.out_channels == (27 if modulated else 18)
    assert not any(p.any() for p in block.conv2_offset.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = block(random_tensor(2, 16, 9, 8))
    assert y.shape == (2, 32, 5, 4)
    y.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in block.parameters())


def test_the_block_without_masks_starts_as_the_plain_block():
    block = DeformBottleneck(16, 16, **BLOCK).eval()
    plain = resnet.BottleneckBlock(16, 16, **BLOCK).eval()
    unexpected = plain.load_state_dict(block.state_dict(), strict=False).unexpected_keys
    assert unexpected == ["conv2_offset.weight", "conv2_offset.bias"]
    x = random_tensor(1, 16, 6, 6)
    torch.testing.assert_close(block(x), plain(x))


def test_names_are_those_of_released_checkpoints():
    block = DeformBottleneck(
        512, 1024, bottleneck_channels=1024, num_groups=32, norm="FrozenBN", deform_modulated=True
    )
    shapes = {f"res4.0.{k}": v for k, v in shapes_of(block).items()}
    assert shapes == adelaidet_keys("first block of res4")


def test_a_frozen_block_has_no_parameter_to_train():
    block = DeformBottleneck(16, 16, **BLOCK).freeze()
    assert not any(p.requires_grad for p in block.parameters())
    assert isinstance(block.conv2.norm, FrozenBatchNorm2d)


def test_a_block_can_have_no_norm():
    block = DeformBottleneck(16, 16, bottleneck_channels=8, norm="")
    assert block.conv2.norm is None
    assert block(random_tensor(1, 16, 6, 6)).isfinite().all()


def test_groups_that_do_not_divide_the_channels_are_an_error():
    with pytest.raises(InputError, match="8 channels") as caught:
        DeformBottleneck(16, 16, **BLOCK, deform_num_groups=3)
    assert caught.value.key == "MODEL.RESNETS.DEFORM_NUM_GROUPS"


@BOTH
def test_each_group_has_separate_offsets(modulated):
    # There are two groups of one channel each. The samples of the second group are shifted by one
    # column.
    conv = torch.nn.Conv2d(2, 2, 3, padding=1, bias=False)
    conv.weight.data.zero_()
    conv.weight.data[0, 0, 1, 1] = conv.weight.data[1, 1, 1, 1] = 1
    fields = torch.zeros(1, 54 if modulated else 36, 1, 3)
    fields[:, 19:36:2] = 1
    x = torch.tensor([[[[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]]]])
    result = sample_and_convolve(x, fields, conv, modulated) * (2 if modulated else 1)
    assert result.tolist() == [[[[1.0, 2.0, 3.0]], [[2.0, 3.0, 0.0]]]]
