"""The ResNets: small numbers of channels, and stages with deformable convolutions."""

import pytest
import torch
from tiny import build_pyramid


@pytest.mark.parametrize("depth", [18, 34])
def test_shallow_resnets_may_be_narrow(depth):
    # detectron2's ResNets have 64 channels.
    (narrow, maps), (wide, _) = (
        build_pyramid(
            {
                "MODEL.RESNETS.DEPTH": depth,
                "MODEL.RESNETS.STEM_OUT_CHANNELS": channels,
                "MODEL.RESNETS.RES2_OUT_CHANNELS": channels,
            }
        )
        for channels in (32, 64)
    )
    assert list(maps) == ["p3", "p4", "p5", "p6", "p7"]
    shapes = {k: v.shape for k, v in narrow.bottom_up.state_dict().items()}
    assert shapes.keys() == wide.bottom_up.state_dict().keys()
    for name, tensor in wide.bottom_up.state_dict().items():
        # Both numbers of channels are halved; 3 are those of the image, 7 and 1 are sizes.
        halves = [n if n in (3, 7, 1) else n // 2 for n in tensor.shape]
        assert list(shapes[name]) == halves, name


DEFORMABLE = {"MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, False, True]}


@pytest.mark.parametrize("modulated", [True, False])
def test_stages_can_be_deformable(modulated):
    opts = {"MODEL.RESNETS.DEFORM_MODULATED": modulated, "MODEL.RESNETS.DEFORM_NUM_GROUPS": 2}
    backbone, maps = build_pyramid(DEFORMABLE, opts)
    kinds = {
        name: {type(block).__name__ for block in getattr(backbone.bottom_up, name)}
        for name in ("res2", "res3", "res4", "res5")
    }
    assert kinds == {
        "res2": {"BottleneckBlock"},
        "res3": {"DeformBottleneck"},
        "res4": {"BottleneckBlock"},
        "res5": {"DeformBottleneck"},
    }
    # Each of the two groups has 9 samples of (dy, dx, mask) or (dy, dx).
    assert backbone.bottom_up.res3[0].conv2_offset.out_channels == (54 if modulated else 36)
    sum(x.sum() for x in maps.values()).backward()
    parameters = dict(backbone.named_parameters())
    assert all(p.grad.isfinite().all() for p in parameters.values())
    assert parameters["bottom_up.res3.3.conv2_offset.bias"].grad.any()


def test_except_for_offsets_a_deformable_resnet_equals_that_of_detectron2():
    opts = {
        "MODEL.RESNETS.RES5_DILATION": 2,  # so that res5 has the stride of res4
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.NUM_GROUPS": 2,
        "MODEL.FPN.IN_FEATURES": ["res3", "res5"],
        "MODEL.FCOS.TOP_LEVELS": 0,
    }
    plain, _ = build_pyramid(opts)
    deformable, _ = build_pyramid(opts, DEFORMABLE)
    result = plain.load_state_dict(deformable.state_dict(), strict=False)
    assert not result.missing_keys
    assert {k.split(".")[3] for k in result.unexpected_keys} == {"conv2_offset"}
    assert deformable.output_shape() == plain.output_shape()
    # The initial offsets are zero; without masks, this is a plain convolution.
    image = torch.rand(1, 3, 96, 128)
    torch.testing.assert_close(deformable.eval()(image), plain.eval()(image))


def test_deformable_stages_can_be_frozen():
    backbone, maps = build_pyramid(DEFORMABLE, "MODEL.BACKBONE.FREEZE_AT", 3)
    frozen = {name.split(".")[1] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "res2", "res3"}
    norms = {
        name: type(getattr(backbone.bottom_up, name)[0].conv2.norm).__name__
        for name in ("res3", "res5")
    }
    assert norms == {"res3": "FrozenBatchNorm2d", "res5": "BatchNorm2d"}
    sum(x.sum() for x in maps.values()).backward()
    assert backbone.bottom_up.res3[0].conv2_offset.bias.grad is None


def test_stages_that_no_map_needs_are_not_built():
    only_res3 = {"MODEL.RESNETS.OUT_FEATURES": ["res3"], "MODEL.FPN.IN_FEATURES": ["res3"]}
    backbone, _ = build_pyramid(DEFORMABLE, only_res3, "MODEL.FCOS.TOP_LEVELS", 0)
    assert not hasattr(backbone.bottom_up, "res5")
    assert type(backbone.bottom_up.res3[0]).__name__ == "DeformBottleneck"
