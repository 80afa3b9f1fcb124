"""The FPN: its levels, and the maps that P6 and P7 are computed from."""

import pytest
import torch
from detectron2.modeling import build_backbone
from tiny import build_pyramid, tiny_cfg

from fcos_d2.errors import InputError


@pytest.mark.parametrize(
    ("top_levels", "names"), [(0, "p3 p4 p5"), (1, "p3 p4 p5 p6"), (2, "p3 p4 p5 p6 p7")]
)
def test_levels_and_strides(top_levels, names):
    backbone, maps = build_pyramid("MODEL.FCOS.TOP_LEVELS", top_levels)
    shapes = backbone.output_shape()
    assert list(maps) == list(shapes) == names.split()
    for name, x in maps.items():
        stride = 2 ** int(name[1:])
        assert shapes[name].stride == stride
        assert x.shape[2:] == (-(-96 // stride), -(-128 // stride))  # rounded up
        assert x.shape[1] == shapes[name].channels == 64


def test_p6_is_computed_from_p5_and_p7_from_p6_after_relu():
    backbone, maps = build_pyramid()
    p6 = backbone.top_block.p6(maps["p5"])
    torch.testing.assert_close(maps["p6"], p6)
    torch.testing.assert_close(maps["p7"], backbone.top_block.p7(p6.relu()))
    assert (maps["p5"] < 0).any()


def test_a_single_p6_is_computed_from_p5_without_relu():
    backbone, maps = build_pyramid("MODEL.FCOS.TOP_LEVELS", 1)
    weight, bias = backbone.top_block.p6.weight, backbone.top_block.p6.bias
    expected = torch.nn.functional.conv2d(maps["p5"], weight, bias, stride=2, padding=1)
    torch.testing.assert_close(maps["p6"], expected)
    assert (maps["p5"] < 0).any()


def test_p6_can_be_computed_from_c5():
    backbone, maps = build_pyramid("MODEL.FCOS.TOP_IN_FEATURE", "res5")
    assert backbone.top_block.p6.in_channels == 128  # the channels of res5: 16 * 8
    c5 = backbone.bottom_up(torch.rand(1, 3, 96, 128))["res5"]
    assert backbone.top_block.p6(c5).shape == maps["p6"].shape


DEFORMABLE = {"MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, False, True]}


@pytest.mark.parametrize(
    ("opts", "key", "word"),
    [
        ({"MODEL.FCOS.TOP_LEVELS": 3}, "MODEL.FCOS.TOP_LEVELS", "(0, 1, 2)"),
        ({"MODEL.FCOS.TOP_IN_FEATURE": "p4"}, "MODEL.FCOS.TOP_IN_FEATURE", "['p5', 'res5']"),
        (
            {**DEFORMABLE, "MODEL.RESNETS.DEPTH": 18},
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE",
            "[False, True, False, True]",
        ),
        (
            {"MODEL.RESNETS.DEFORM_ON_PER_STAGE": [True]},
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE",
            "[True]",
        ),
        (
            {**DEFORMABLE, "MODEL.RESNETS.DEFORM_NUM_GROUPS": 0},
            "MODEL.RESNETS.DEFORM_NUM_GROUPS",
            "at least 1",
        ),
    ],
)
def test_wrong_settings_are_errors_with_their_key(opts, key, word):
    with pytest.raises(InputError) as caught:
        build_backbone(tiny_cfg(opts))
    assert caught.value.key == key
    assert word in caught.value.text
