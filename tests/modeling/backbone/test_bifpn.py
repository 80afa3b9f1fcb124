"""The BiFPN: its maps, its equations and the number of its parameters."""

import pytest
import torch
import torch.nn.functional as F
from commands import REPOSITORY
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone, build_model
from input_errors import input_error
from tiny import random_input, seeded_model, tiny_cfg
from torch import nn

from fcos_d2 import BiFPN
from fcos_d2.arguments import get
from fcos_d2.modeling.backbone.bifpn import BiFPNLayer, downsample, fuse, upsample

RESNET = {
    "MODEL.BACKBONE.NAME": "build_fcos_resnet_bifpn_backbone",
    "MODEL.BIFPN.OUT_CHANNELS": 32,
    "MODEL.BIFPN.NUM_REPEATS": 2,
}


class Maps(Backbone):
    """A network whose maps are the pooled image, with strides 8, 16, ... and 3, 4, ... channels."""

    def __init__(self, num_maps, size_divisibility=0):
        super().__init__()
        self._out_features = [f"m{i}" for i in range(num_maps)]
        self._out_feature_strides = {f"m{i}": 8 << i for i in range(num_maps)}
        self._out_feature_channels = {f"m{i}": 3 + i for i in range(num_maps)}
        self._divisibility = size_divisibility

    size_divisibility = property(lambda self: self._divisibility)

    def forward(self, x):
        return {
            name: F.avg_pool2d(x, stride).repeat(1, 2, 1, 1)[:, : self._out_feature_channels[name]]
            for name, stride in self._out_feature_strides.items()
        }


def bifpn(num_maps=3, **kwargs):
    names = [f"m{i}" for i in range(num_maps)]
    kwargs = {"out_channels": 32, "num_repeats": 2, "norm": "", **kwargs}
    return BiFPN(bottom_up=Maps(num_maps), in_features=names, **kwargs)


def test_fusion_is_a_mean_whose_weights_are_at_least_zero():
    maps = [torch.full((1, 1, 1, 2), value) for value in (10.0, 20.0, 40.0)]
    # The weights are 3, 0 (instead of -5) and 1: (3 * 10 + 0 * 20 + 1 * 40) / (4 + 0.5) = 70 / 4.5
    fused = fuse(maps, torch.tensor([3.0, -5.0, 1.0]), eps=0.5)
    torch.testing.assert_close(fused, torch.full((1, 1, 1, 2), 70 / 4.5))
    # By default, eps is that of the paper: (10 + 20) / 2.0001
    fused = fuse(maps[:2], torch.ones(2))
    torch.testing.assert_close(fused, torch.full((1, 1, 1, 2), 30 / 2.0001))


def test_fusion_returns_the_dtype_of_autocast():
    maps = [torch.ones(1, 1, 2, 2, dtype=torch.bfloat16)] * 2
    assert fuse(maps, torch.ones(2)).dtype == torch.bfloat16


def test_maps_are_resized_to_a_neighboring_level():
    x = torch.arange(15.0).view(1, 1, 3, 5)
    # The maxima are those of 3 x 3 windows around the cells (0, 2) x (0, 2, 4). The last rows of
    # the windows are 1 and 2, their last columns 1, 3 and 4.
    expected = torch.tensor([[[[6.0, 8.0, 9.0], [11.0, 13.0, 14.0]]]])
    torch.testing.assert_close(downsample(x), expected)
    up = upsample(torch.tensor([[[[1.0, 2.0]]]]), (1, 3))
    torch.testing.assert_close(up, torch.tensor([[[[1.0, 1.0, 2.0]]]]))
    # A map of one row is halved only along the columns, and a map of one cell not at all.
    torch.testing.assert_close(downsample(x[:, :, :1]), torch.tensor([[[[1.0, 3.0, 4.0]]]]))
    torch.testing.assert_close(downsample(x[:, :, :1, :1]), x[:, :, :1, :1])


@pytest.mark.parametrize("num_maps", [1, 2, 3, 4])
@pytest.mark.parametrize("top_levels", [0, 1, 2])
def test_levels_strides_and_gradients(num_maps, top_levels):
    if num_maps + top_levels == 1:
        with input_error("at least two", key="MODEL.FPN.IN_FEATURES", value=["m0"]):
            bifpn(num_maps, top_levels=top_levels)
        return
    torch.manual_seed(0)
    neck = bifpn(num_maps, top_levels=top_levels)
    shapes = neck.output_shape()
    height, width = 64, 192
    maps = neck(torch.rand(2, 3, height, width))
    assert list(maps) == list(shapes) == [f"p{3 + i}" for i in range(num_maps + top_levels)]
    for i, (name, x) in enumerate(maps.items()):
        stride = shapes[name].stride
        assert stride == 8 << i
        assert x.shape == (2, shapes[name].channels, -(-height // stride), -(-width // stride))
    sum(x.square().mean() for x in maps.values()).backward()
    without = [k for k, p in neck.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (224, 32)])
def test_images_can_have_any_multiple_of_the_size_divisibility(size):
    neck = bifpn()
    assert neck.size_divisibility == 32
    maps = neck(torch.rand(1, 3, *size))
    for name, x in maps.items():
        stride = neck.output_shape()[name].stride
        assert x.shape[2:] == (-(-size[0] // stride), -(-size[1] // stride))


def test_the_size_divisibility_of_the_bottom_up_network_is_respected():
    neck = BiFPN(bottom_up=Maps(2, size_divisibility=64), in_features=["m0", "m1"])
    assert neck.size_divisibility == 64


def compute_equations(layer, maps):
    """Compute a layer by the equations of arXiv:1911.09070, Sec. 3.3, for three levels."""

    def compute_node(module, *inputs):
        w = [max(float(x), 0) for x in module.weights.detach()]
        total = sum(a * x for a, x in zip(w, inputs, strict=True)) / (sum(w) + 1e-4)
        return F.conv2d(total * total.sigmoid(), module.conv.weight, module.conv.bias, padding=1)

    def up(x):
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    def down(x):
        return nn.MaxPool2d(3, 2, 1)(x)

    p3, p4, p5 = maps
    (to3, to4), (out4, out5) = layer.top_down, layer.bottom_up
    p4_first = compute_node(to4, p4, up(p5))
    p3_out = compute_node(to3, p3, up(p4_first))
    p4_out = compute_node(out4, p4, p4_first, down(p3_out))
    p5_out = compute_node(out5, p5, down(p4_out))
    return [p3_out, p4_out, p5_out]


def test_a_layer_computes_the_equations_of_the_paper():
    torch.manual_seed(0)
    layer = BiFPNLayer([8, 8, 8], 8, "")
    for name, parameter in layer.named_parameters():
        if name.endswith("weights"):
            nn.init.uniform_(parameter, -0.5, 2)
    maps = [torch.randn(2, 8, 16 >> i, 24 >> i) for i in range(3)]
    for x, expected in zip(layer(maps), compute_equations(layer, maps), strict=True):
        torch.testing.assert_close(x, expected)


def test_the_inputs_of_extra_levels_are_max_pooled_from_the_last_map():
    neck = bifpn(2, top_levels=2)
    inputs = []
    neck.layers[0].register_forward_pre_hook(lambda module, args: inputs.extend(args[0]))
    image = torch.rand(1, 3, 96, 64)
    neck(image)
    last = neck.top_projection(neck.bottom_up(image)["m1"])
    p5 = F.max_pool2d(last, 3, 2, 1)
    torch.testing.assert_close(inputs[2], p5)
    torch.testing.assert_close(inputs[3], F.max_pool2d(p5, 3, 2, 1))


def test_maps_with_the_right_number_of_channels_are_not_projected():
    layer = BiFPNLayer([16, 8], 8, "BN")
    assert [type(x).__name__ for x in layer.projections] == ["Conv2d", "Identity"]


def count_like_adelaidet(in_channels, channels, num_repeats):
    """
    Count the parameters of AdelaiDet's BiFPN with norms and P3 to P7.

    The biases of its 1x1 convolutions are not counted: they have no effect before a norm.
    """
    (c3, c4, c5), norm = in_channels, 2 * channels
    # There is one for each level, which uses it twice, and one for P6, from C5.
    projections = sum(c * channels + norm for c in (c3, c4, c5, c5))
    convolutions = 8 * (9 * channels * channels + norm)
    weights = 4 * 2 + 3 * 3 + 2
    return projections + num_repeats * (convolutions + weights)


def count_parameters(neck):
    """Count the parameters of a neck without those of its bottom-up network."""
    return sum(p.numel() for k, p in neck.named_parameters() if not k.startswith("bottom_up."))


def test_the_number_of_parameters_is_that_of_adelaidet():
    neck = build_backbone(tiny_cfg(RESNET, "MODEL.BIFPN.NUM_REPEATS", 3))
    # The stages of the tiny ResNet have 32, 64 and 128 channels. res3 needs no projection to 32.
    expected = count_like_adelaidet((32, 64, 128), 32, 3) - (32 * 32 + 64)
    assert count_parameters(neck) == expected


def test_the_number_of_parameters_is_that_of_the_docs():
    defaults = {"MODEL.BIFPN.OUT_CHANNELS": 160, "MODEL.BIFPN.NUM_REPEATS": 6}
    resnet50 = {"MODEL.RESNETS.STEM_OUT_CHANNELS": 64, "MODEL.RESNETS.RES2_OUT_CHANNELS": 256}
    neck = build_backbone(tiny_cfg(RESNET, defaults, resnet50))
    page = (REPOSITORY / "docs" / "backbones.md").read_text()
    assert f"{count_parameters(neck) / 1e6:.1f} M parameters" in page


@pytest.mark.parametrize("norm", ["GN", "BN", "SyncBN", "naiveSyncBN", ""])
def test_a_model_with_any_norm_trains(norm):
    model = seeded_model(RESNET, "MODEL.BIFPN.NORM", norm)
    assert model.levels.strides == (8, 16, 32, 64, 128)
    losses = model([random_input(3), random_input(0, seed=1)])
    sum(losses.values()).backward()
    backbone = dict(model.backbone.named_parameters())
    assert [k for k, p in backbone.items() if p.grad is None or not p.grad.isfinite().all()] == []
    assert backbone["layers.1.top_down.0.weights"].grad.any()
    norms = [m.norm for m in model.backbone.layers.modules() if hasattr(m, "norm")]
    on_cpu = {"SyncBN": "_NaiveSyncBatchNorm", "naiveSyncBN": "_NaiveSyncBatchNorm"}
    names = {"GN": "_GroupNorm", "BN": "BatchNorm2d", "": "NoneType"} | on_cpu
    assert {type(x).__name__ for x in norms} - {"NoneType"} == {names[norm]} - {"NoneType"}
    with torch.no_grad():
        assert "instances" in model.eval()([random_input(1)])[0]


def test_the_bottom_up_network_can_be_a_network_of_timm():
    pytest.importorskip("timm")
    timm = {
        "MODEL.BACKBONE.NAME": "build_fcos_timm_bifpn_backbone",
        "MODEL.TIMM.NAME": "resnet18",
    }
    neck = build_backbone(tiny_cfg(RESNET, timm))
    assert list(neck(torch.rand(2, 3, 96, 64))) == ["p3", "p4", "p5", "p6", "p7"]
    assert neck.bottom_up.name == "resnet18"


def test_the_builders_are_registered():
    for name in ("build_fcos_resnet_bifpn_backbone", "build_fcos_timm_bifpn_backbone"):
        assert BACKBONE_REGISTRY.get(name).__module__ == "fcos_d2.modeling.backbone.builders"


def test_maps_that_the_head_does_not_use_are_detected():
    opts = {"MODEL.FCOS.IN_FEATURES": ["p3", "p4"], "MODEL.FCOS.SIZES_OF_INTEREST": [64]}
    assert seeded_model(RESNET, opts).untrained_maps == ["p5", "p6", "p7"]


GROUPS = {"MODEL.BIFPN.NORM": "GN", "MODEL.BIFPN.OUT_CHANNELS": 48}


@pytest.mark.parametrize(
    ("opts", "key", "word"),
    [
        ({"MODEL.BIFPN.NUM_REPEATS": 0}, "MODEL.BIFPN.NUM_REPEATS", "at least 1"),
        ({"MODEL.BIFPN.OUT_CHANNELS": 0}, "MODEL.BIFPN.OUT_CHANNELS", "at least 1"),
        ({"MODEL.BIFPN.NORM": "FrozenBN"}, "MODEL.BIFPN.NORM", "'FrozenBN'"),
        (GROUPS, "MODEL.BIFPN.OUT_CHANNELS", "OUT_CHANNELS = 48"),
        ({"MODEL.FCOS.TOP_LEVELS": 3}, "MODEL.FCOS.TOP_LEVELS", "(0, 1, 2)"),
        ({"MODEL.FPN.IN_FEATURES": ["res2"]}, "MODEL.FPN.IN_FEATURES", "['res3', 'res4', 'res5']"),
        ({"MODEL.FPN.IN_FEATURES": []}, "MODEL.FPN.IN_FEATURES", "['res3', 'res4', 'res5']"),
        ({"MODEL.FPN.IN_FEATURES": ["res3", "res5"]}, "MODEL.FPN.IN_FEATURES", "[8, 32]"),
    ],
)
@pytest.mark.parametrize("build", [build_backbone, build_model], ids=lambda x: x.__name__)
def test_wrong_settings_are_errors_with_their_key(build, opts, key, word):
    cfg = tiny_cfg(RESNET, opts)
    with input_error(word, key=key, value=get(cfg, key)):
        build(cfg)
