"""Weights that only unused maps depend on are found in any backbone."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

from fcos_d2.modeling.backbone.unused_maps import find_untrained_maps


class Neck(Backbone):
    """A backbone of an unknown class with three maps; the last one is pooled or convolved."""

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
    ("last", "used", "unused", "words"),
    [
        (nn.MaxPool2d(4), ["a", "b"], [], []),  # "c" has no separate weights.
        (nn.MaxPool2d(4), ["b"], [], []),  # "b" is computed from "a".
        (nn.MaxPool2d(4), ["a", "c"], ["b"], ["2 ", "second.weight"]),
        (nn.Conv2d(4, 4, 4, 4), ["a", "b"], ["c"], ["2 ", "last.weight"]),
        (nn.Conv2d(4, 4, 4, 4, bias=False), ["a", "b"], ["c"], ["last.weight"]),
        (NeedsValues(4), ["a", "b"], ["c"], []),  # Its gradients cannot be traced.
    ],
)
def test_unused_maps_are_found_by_their_weights(last, used, unused, words, caplog):
    backbone = Neck(last)
    assert find_untrained_maps(backbone, used) == unused
    messages = [x.getMessage() for x in caplog.records]
    assert len(messages) == bool(unused)
    assert all(word in messages[0] for word in words)
    assert all(x.device == torch.device("cpu") for x in backbone.parameters())


def test_a_frozen_backbone_leaves_nothing_untrained(caplog):
    backbone = Neck(nn.Conv2d(4, 4, 4, 4)).requires_grad_(False)
    assert find_untrained_maps(backbone, ["a", "b"]) == []
    assert not caplog.text
