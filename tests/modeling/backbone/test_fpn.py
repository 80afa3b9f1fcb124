"""The pyramid: which levels it has, and what they are made from."""

import pytest
import torch
from detectron2.modeling import build_backbone
from tiny import tiny_cfg


def pyramid(*opts, size=(96, 128)):
    backbone = build_backbone(tiny_cfg(*opts))
    return backbone, backbone(torch.rand(1, 3, *size))


@pytest.mark.parametrize(
    ("top_levels", "names"), [(0, "p3 p4 p5"), (1, "p3 p4 p5 p6"), (2, "p3 p4 p5 p6 p7")]
)
def test_levels_and_strides(top_levels, names):
    backbone, maps = pyramid("MODEL.FCOS.TOP_LEVELS", top_levels)
    shapes = backbone.output_shape()
    assert list(maps) == list(shapes) == names.split()
    for name, x in maps.items():
        stride = 2 ** int(name[1:])
        assert shapes[name].stride == stride
        assert x.shape[2:] == (-(-96 // stride), -(-128 // stride))  # rounded up
        assert x.shape[1] == shapes[name].channels == 64


def test_p6_is_made_from_p5_without_relu_and_p7_from_relu_of_p6():
    backbone, maps = pyramid()
    p6 = backbone.top_block.p6(maps["p5"])
    torch.testing.assert_close(maps["p6"], p6)
    torch.testing.assert_close(maps["p7"], backbone.top_block.p7(p6.relu()))
    assert (maps["p5"] < 0).any()


def test_p6_alone_is_made_from_p5_without_relu():
    backbone, maps = pyramid("MODEL.FCOS.TOP_LEVELS", 1)
    weight, bias = backbone.top_block.p6.weight, backbone.top_block.p6.bias
    expected = torch.nn.functional.conv2d(maps["p5"], weight, bias, stride=2, padding=1)
    torch.testing.assert_close(maps["p6"], expected)
    assert (maps["p5"] < 0).any()


def test_p6_can_be_made_from_c5():
    backbone, maps = pyramid("MODEL.FCOS.TOP_IN_FEATURE", "res5")
    assert backbone.top_block.p6.in_channels == 128  # of res5: 16 * 8
    c5 = backbone.bottom_up(torch.rand(1, 3, 96, 128))["res5"]
    assert backbone.top_block.p6(c5).shape == maps["p6"].shape


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.FCOS.TOP_LEVELS", 3), "TOP_LEVELS = 3 must be one of \\(0, 1, 2\\)"),
        (
            (*DEFORMABLE, "MODEL.RESNETS.DEPTH", 18),
            r"\[False, True, False, True\] is for bottlenecks",
        ),
        ((*DEFORMABLE, "MODEL.RESNETS.DEFORM_NUM_GROUPS", 0), "must be an integer of at least 1"),
        (("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [True]), "must be a list of four times True"),
        (("MODEL.FCOS.TOP_IN_FEATURE", "p4"), r"TOP_IN_FEATURE = 'p4' must be.*\['p5', 'res5'\]"),
    ],
)
def test_wrong_settings_name_key_and_value(opts, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(tiny_cfg(*opts))
