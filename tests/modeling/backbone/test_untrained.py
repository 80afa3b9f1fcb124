"""Weights that lead to maps nobody uses are found in any backbone."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

from fcos_d2.modeling.backbone.untrained import find_untrained_maps


class Neck(Backbone):
    """Of no class that we know: three maps, of which the last is pooled or convolved."""

    def __init__(self, last):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.last = last

    def forward(self, x):
        fine = self.first(x)
        return {"a": fine, "b": self.second(fine), "c": self.last(fine)}

    def output_shape(self):
        return {name: ShapeSpec(channels=4, stride=s) for name, s in (("a", 1), ("b", 2), ("c", 4))}


class NeedsValues(nn.MaxPool2d):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("last", "used", "unused", "said"),
    [
        (nn.MaxPool2d(4), ["a", "b"], [], ""),  # no weight leads to "c" alone
        (nn.MaxPool2d(4), ["b"], [], ""),  # "a" leads to "b"
        (nn.MaxPool2d(4), ["a", "c"], ["b"], "2 of its weights never get a gradient (second"),
        (nn.Conv2d(4, 4, 4, 4), ["a", "b"], ["c"], "2 of its weights never get a gradient (last.w"),
        (nn.Conv2d(4, 4, 4, 4, bias=False), ["a", "b"], ["c"], "its weight last.weight never get"),
        (NeedsValues(4), ["a", "b"], ["c"], "could not be found out"),
    ],
)
def test_unused_maps_are_found_by_their_weights(last, used, unused, said, caplog):
    backbone = Neck(last)
    assert find_untrained_maps(backbone, used) == unused
    assert bool(caplog.text) == bool(unused)
    assert said in caplog.text
    assert all(x.device == torch.device("cpu") for x in backbone.parameters())


def test_a_frozen_backbone_leaves_nothing_untrained(caplog):
    backbone = Neck(nn.Conv2d(4, 4, 4, 4)).requires_grad_(False)
    assert find_untrained_maps(backbone, ["a", "b"]) == []
    assert not caplog.text
