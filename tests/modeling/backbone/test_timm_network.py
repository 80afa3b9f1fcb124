"""Networks of timm as bottom-up networks: their maps, and the parameters that are frozen."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm
from detectron2.modeling import build_backbone
from tiny import timm_cfg
from torch import nn

from fcos_d2 import TimmBackbone
from fcos_d2.errors import InputError
from fcos_d2.modeling.layers.norms import sync_norms_for_device

timm = pytest.importorskip("timm")


LIGHT = ["resnet18", "mobilenetv2_100", "efficientnet_lite0", "swin_tiny_patch4_window7_224"]
HEAVY = ["dla34", "hrnet_w18", "ese_vovnet39b", "convnext_tiny"]
NETWORKS = [*LIGHT, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)]


def frozen_names(backbone):
    """Return the first two parts of the names of frozen parameters and FrozenBN layers."""
    frozen = {name for name, p in backbone.net.named_parameters() if not p.requires_grad}
    frozen |= {name for name, m in backbone.net.named_modules() if isinstance(m, FrozenBatchNorm2d)}
    return {".".join(name.split(".")[:2]) for name in frozen}


@pytest.mark.parametrize("name", NETWORKS)
def test_all_parameters_of_an_fpn_on_a_network_of_timm_get_gradients(name):
    backbone = build_backbone(timm_cfg(name))
    shapes = backbone.output_shape()
    maps = backbone(torch.rand(1, 3, 64, 96))
    assert backbone.size_divisibility == 32
    assert list(maps) == list(shapes) == ["p3", "p4", "p5", "p6", "p7"]
    for level, x in maps.items():
        stride = shapes[level].stride
        assert stride == 2 ** int(level[1:])
        assert x.shape == (1, 64, -(-64 // stride), -(-96 // stride))
    sum(x.square().mean() for x in maps.values()).backward()
    without = [k for k, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []  # DDP would wait for them


@pytest.mark.parametrize("name", NETWORKS)
def test_bottom_up_maps_have_the_declared_channels_and_strides(name):
    backbone = TimmBackbone(name=name, out_features=["res2", "res3", "res4", "res5"]).eval()
    shapes = backbone.output_shape()
    maps = backbone(torch.rand(1, 3, 96, 64))
    assert list(maps) == list(shapes) == ["res2", "res3", "res4", "res5"]
    for feature, x in maps.items():
        stride = shapes[feature].stride
        assert stride == 2 ** int(feature[3:])
        assert x.shape == (1, shapes[feature].channels, 96 // stride, 64 // stride)


def test_maps_are_those_of_timm():
    backbone = TimmBackbone(name="resnet18", out_features=["res5", "res3"]).eval()
    model = timm.create_model("resnet18").eval()
    model.load_state_dict(backbone.net.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 64)
    maps = backbone(x)
    assert list(maps) == ["res3", "res5"]
    torch.testing.assert_close(maps["res5"], model.forward_features(x))


def test_channels_last_maps_of_a_transformer_are_permuted():
    backbone = TimmBackbone(name="swin_tiny_patch4_window7_224").eval()
    x = torch.rand(1, 3, 64, 96)
    for channels_first, channels_last in zip(backbone(x).values(), backbone.net(x), strict=True):
        assert torch.equal(channels_first.permute(0, 2, 3, 1), channels_last)


def test_stages_that_no_map_needs_are_not_built():
    backbone = TimmBackbone(name="resnet18", out_features=["res2", "res3"])
    assert not [name for name, _ in backbone.net.named_parameters() if name.startswith("layer3")]


RESNET_STEM = {"conv1.weight", "bn1"}
MOBILENET_STEM = {"conv_stem.weight", "bn1", "blocks.0"}


@pytest.mark.parametrize(
    ("name", "freeze_at", "frozen"),
    [
        ("resnet18", 0, set()),
        ("resnet18", 1, RESNET_STEM),
        ("resnet18", 2, RESNET_STEM | {"layer1.0", "layer1.1"}),
        ("resnet18", 3, RESNET_STEM | {f"layer{i}.{j}" for i in (1, 2) for j in (0, 1)}),
        ("mobilenetv2_100", 1, MOBILENET_STEM),
        ("mobilenetv2_100", 2, MOBILENET_STEM | {"blocks.1"}),
        ("mobilenetv2_100", 4, MOBILENET_STEM | {f"blocks.{i}" for i in (1, 2, 3, 4)}),
        # This network has no map of stride 2: its stem is everything before the first stage.
        ("convnext_atto", 1, {"stem_0.weight", "stem_0.bias", "stem_1.weight", "stem_1.bias"}),
    ],
)
def test_freeze_at_counts_stem_and_stages_as_in_detectron2(name, freeze_at, frozen):
    backbone = TimmBackbone(name=name, freeze_at=freeze_at)
    assert frozen_names(backbone) == frozen
    # Norms after the frozen part are trained.
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms or name == "convnext_atto"
    assert all(norm.weight.requires_grad for norm in norms)


def test_freeze_at_5_freezes_the_whole_network():
    backbone = TimmBackbone(name="resnet18", freeze_at=5)
    assert not [p for p in backbone.parameters() if p.requires_grad]
    assert not [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.slow
def test_only_the_stem_of_a_network_with_parallel_scales_can_be_frozen():
    assert frozen_names(TimmBackbone(name="hrnet_w18", freeze_at=1)) >= {"conv1.weight", "bn1"}
    with pytest.raises(InputError, match="'hrnet_w18'") as caught:
        TimmBackbone(name="hrnet_w18", freeze_at=2)
    assert caught.value.key == "MODEL.BACKBONE.FREEZE_AT"


# The norms of the second network contain the activation.
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100"])
def test_frozen_batch_norm_computes_the_same_as_batch_norm_in_evaluation_mode(name):
    torch.manual_seed(0)
    plain = TimmBackbone(name=name)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    frozen = TimmBackbone(name=name, norm="FrozenBN")
    frozen.load_state_dict(plain.state_dict())
    assert not [m for m in frozen.modules() if isinstance(m, nn.BatchNorm2d)]
    x = torch.rand(2, 3, 64, 64)
    expected, maps = plain.eval()(x), frozen.train()(x)
    for feature in expected:
        scale = expected[feature].abs().max()
        torch.testing.assert_close(
            maps[feature] / scale, expected[feature] / scale, rtol=0, atol=1e-4
        )


# The norms of the second network contain the activation.
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100"])
@pytest.mark.parametrize("kind", [nn.SyncBatchNorm, NaiveSyncBatchNorm])
def test_synchronized_batch_norm_in_one_process_computes_the_same_as_batch_norm(name, kind):
    torch.manual_seed(0)
    plain = TimmBackbone(name=name, freeze_at=2)
    synced = TimmBackbone(name=name, freeze_at=2, norm="SyncBN")
    if kind is NaiveSyncBatchNorm:
        sync_norms_for_device(synced, "cpu")
    synced.load_state_dict(plain.state_dict())  # the names are the same
    norms = [m for m in synced.modules() if isinstance(m, (nn.SyncBatchNorm, nn.BatchNorm2d))]
    assert norms
    assert all(isinstance(m, kind) for m in norms)
    assert frozen_names(synced) == frozen_names(plain) != set()
    x = torch.rand(2, 3, 64, 64)
    maps, expected_maps = synced.train()(x), plain.train()(x)
    for name, expected in expected_maps.items():
        torch.testing.assert_close(maps[name], expected, rtol=1e-4, atol=1e-4)
    for key, expected in plain.state_dict().items():
        torch.testing.assert_close(synced.state_dict()[key], expected, msg=key)


@pytest.mark.parametrize(
    ("arguments", "key", "words"),
    [
        ({"name": "resnet8"}, "MODEL.TIMM.NAME", ["'resnet8'", "resnet18", "list_models"]),
        ({"name": ""}, "MODEL.TIMM.NAME", ["''", "list_models"]),
        ({"name": "resnet18.a9"}, "MODEL.TIMM.NAME", ["'resnet18.a9'", "resnet18.a1_in1k"]),
        ({"name": "shvit_s1"}, "MODEL.FPN.IN_FEATURES", ["[16, 32, 64]", "{'res3': 8}"]),
        ({"name": "levit_128"}, "MODEL.TIMM.NAME", ["one size"]),
        ({"name": "inception_v3"}, "MODEL.TIMM.NAME", ["(1, 288, 29, 29)", "32 x 32"]),
        (
            {"name": "ese_vovnet99b", "pretrained": True},
            "MODEL.TIMM.PRETRAINED",
            ["'ese_vovnet99b'"],
        ),
        ({"name": "resnet18", "norm": "GN"}, "norm", ["'GN'"]),
        ({"name": "resnet18", "freeze_at": 6}, "freeze_at", ["from 0 (nothing) to 5"]),
        ({"name": "resnet18", "out_features": ["p3"]}, "MODEL.FPN.IN_FEATURES", ["['p3']"]),
        ({"name": "resnet18", "out_features": []}, "MODEL.FPN.IN_FEATURES", ["[]"]),
    ],
)
def test_wrong_settings_are_errors_with_their_key(arguments, key, words):
    with pytest.raises(InputError) as caught:
        TimmBackbone(**arguments)
    assert caught.value.key == key
    assert all(word in caught.value.text for word in words)
