"""The original FCOS: its MobileNetV2 as a network of timm."""

import re

import pytest
import torch
import torchvision
from weights_files import randomize_norms

from fcos_d2 import TimmBackbone
from fcos_d2.checkpoint import SOURCES


def test_the_mobilenet_computes_the_same_maps_in_timm():
    # The network is that of torchvision, but its layers have other numbers.
    pytest.importorskip("timm")
    source = randomize_norms(torchvision.models.mobilenet_v2(weights=None))
    numbers = {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7}
    first_block = {"0.0": 0, "0.1": 1, "1": 3, "2": 4}
    weights = {}
    for name, value in source.state_dict().items():
        match = re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)", name)
        if match:
            number = (first_block if match[1] == "1" else numbers)[match[2]]
            name = f"features.{match[1]}.conv.{number}.{match[3]}"
        if not name.startswith(("features.18.", "classifier.")):
            weights[SOURCES["original"].keys.to_ours(f"backbone.body.{name}")] = value
    bottom_up = TimmBackbone(name="mobilenetv2_100").eval()
    bottom_up.load_state_dict(
        {k.removeprefix("backbone.bottom_up."): x for k, x in weights.items()}
    )
    x = torch.rand(1, 3, 64, 96)
    maps = bottom_up(x)
    for index, layer in enumerate(source.features[:18]):
        x = layer(x)
        feature = {6: "res3", 13: "res4", 17: "res5"}.get(index)
        if feature:
            scale = x.abs().max()
            assert scale > 0
            torch.testing.assert_close(maps[feature] / scale, x / scale)
