"""``fcos-d2 convert --to``: our weights converted to files of other projects."""

import re
from pathlib import Path

import pytest
import torch
from convert_command import BIFPN, as_opts, check_refusal, convert, convert_back, save_own
from weights_files import MMDET, assert_same_weights, load_peer_file

from fcos_d2.checkpoint import read_checkpoint
from fcos_d2.config_loading import load_config

TIMM = {"MODEL.BACKBONE.NAME": "build_fcos_timm_fpn_backbone", "MODEL.TIMM.NAME": "resnet18"}
GROUP_NORM_RESNET = {
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 32,
}
THREE_LEVELS = {
    "MODEL.FCOS.TOP_LEVELS": 0,
    "MODEL.FCOS.IN_FEATURES": ["p3", "p4", "p5"],
    "MODEL.FCOS.SIZES_OF_INTEREST": [64, 128],
}
TORCHVISION_INPUT = {
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.FCOS.LOCATION_OFFSET": 0.0,
}
AS_TORCHVISION = {**TORCHVISION_INPUT, "MODEL.FCOS.USE_SCALE": False}


def test_the_file_has_the_layout_of_the_other_project(folder):
    convert(MMDET, "-o", "y.pth")
    convert_back("mmdet", "y")
    back, original = (torch.load(x, weights_only=True) for x in ("z.pth", MMDET))
    assert back["meta"]["dataset_meta"]["classes"] == original["meta"]["dataset_meta"]["classes"]
    weights = {k: x for k, x in original["state_dict"].items() if "num_batches" not in k}
    assert_same_weights(back["state_dict"], weights)
    convert_back("adelaidet", "y", "a.pth")
    content = load_peer_file("adelaidet_gn_ctrness")
    keys = {k for k in content["model"] if not k.startswith("pixel_")}
    assert torch.load("a.pth", weights_only=True)["model"].keys() == keys


def test_the_config_next_to_the_weights_is_used(folder, capsys):
    convert(MMDET, "-o", "y.pth")
    capsys.readouterr()
    convert("y.pth", "--to", "mmdet", "-o", "z.pth")
    assert "y.yaml" in capsys.readouterr().out
    convert_back("mmdet", "y", "named.pth")
    weights, expected = (
        torch.load(x, weights_only=True)["state_dict"] for x in ("z.pth", "named.pth")
    )
    assert_same_weights(weights, expected)


# name of the case: (target, overrides of the config, key and value that the target does not have)
OTHER_MODELS = {
    "stride": ("torchvision", {}, "MODEL.RESNETS.STRIDE_IN_1X1", True),
    "activation": (
        "adelaidet",
        {"MODEL.FCOS.BOX_ACTIVATION": "exp"},
        "MODEL.FCOS.BOX_ACTIVATION",
        "exp",
    ),
    "norm": ("mmdet", {"MODEL.FCOS.NORM": "BN"}, "MODEL.FCOS.NORM", "BN"),
}


@pytest.mark.parametrize("case", OTHER_MODELS)
def test_a_layer_that_the_other_project_does_not_have_is_refused(folder, case):
    target, opts, key, value = OTHER_MODELS[case]
    convert(MMDET, "-o", "y.pth")
    arguments = ["y.pth", "--to", target, "--config-file", "y.yaml", "-o", "z.pth"]
    check_refusal(*arguments, *as_opts(opts), key=key, value=value)


def test_weights_that_do_not_fit_their_config_are_refused(folder):
    convert(MMDET, "-o", "y.pth")
    arguments = ["y.pth", "--to", "mmdet", "--config-file", "y.yaml", "-o", "z.pth"]
    words = ["y.pth", "--config-file", "head.cls_logits.weight"]
    check_refusal(*arguments, *as_opts({"MODEL.FCOS.NUM_CLASSES": 5}), words=words)


# name of the case: (target, overrides of a tiny model, key of the error, the only value that the
# target has); None means that the key is the first one of the overrides.
OTHER_COMPUTATIONS = {
    "adelaidet, offset": ("adelaidet", {"MODEL.FCOS.LOCATION_OFFSET": 0.0}, None, "0.5"),
    "adelaidet, channels": ("adelaidet", {"MODEL.FCOS.HEAD_CHANNELS": 32}, None, "0 or 64"),
    "adelaidet, top map": ("adelaidet", {"MODEL.FCOS.TOP_IN_FEATURE": "res5"}, None, "'p5'"),
    "adelaidet, quality": ("adelaidet", {"MODEL.FCOS.BOX_QUALITY": "none"}, None, "'centerness'"),
    "adelaidet, BiFPN": ("adelaidet", BIFPN, "MODEL.BACKBONE.NAME", "'build_fcos_"),
    "adelaidet, timm": ("adelaidet", TIMM, "MODEL.TIMM.NAME", "'' or 'dla34'"),
    "mmdet, FPN norm": ("mmdet", {"MODEL.FPN.NORM": "GN"}, None, "''"),
    "mmdet, fusion": ("mmdet", {"MODEL.FPN.FUSE_TYPE": "avg"}, None, "'sum'"),
    "mmdet, quality": ("mmdet", {"MODEL.FCOS.BOX_QUALITY": "none"}, None, "'centerness'"),
    "mmdet, towers": ("mmdet", {"MODEL.FCOS.NUM_BOX_CONVS": 2}, None, "1"),
    "mmdet, ResNet norm": ("mmdet", GROUP_NORM_RESNET, None, "'FrozenBN'"),
    "torchvision, FPN norm": ("torchvision", {"MODEL.FPN.NORM": "GN"}, None, "''"),
    "torchvision, fusion": ("torchvision", {"MODEL.FPN.FUSE_TYPE": "avg"}, None, "'sum'"),
    "torchvision, quality": (
        "torchvision",
        {"MODEL.FCOS.BOX_QUALITY": "none"},
        None,
        "'centerness'",
    ),
    "torchvision, towers": (
        "torchvision",
        {"MODEL.FCOS.NUM_CLS_CONVS": 2},
        "MODEL.FCOS.NUM_BOX_CONVS",
        "2",
    ),
    "torchvision, channels": ("torchvision", {"MODEL.FCOS.HEAD_CHANNELS": 32}, None, "0 or 64"),
    "torchvision, groups": ("torchvision", {"MODEL.RESNETS.NUM_GROUPS": 4}, None, "1"),
    "torchvision, levels": ("torchvision", THREE_LEVELS, None, "2"),
}


@pytest.mark.parametrize("case", OTHER_COMPUTATIONS)
def test_a_setting_that_the_other_project_does_not_have_is_refused(folder, case):
    target, opts, key, only = OTHER_COMPUTATIONS[case]
    if opts is TIMM:
        pytest.importorskip("timm")
    save_own({**(AS_TORCHVISION if target == "torchvision" else {}), **opts})
    arguments = ["own.pth", "--to", target, "--config-file", "own.yaml", "-o", "z.pth"]
    key = key or next(iter(opts))
    value = opts.get(key, 1)  # The towers of the tiny model have one convolution.
    check_refusal(*arguments, words=[only], key=key, value=value)


def test_keys_that_only_training_reads_may_have_any_value(folder):
    training = {"MODEL.FCOS.LOC_LOSS_TYPE": "diou", "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 0.0}
    save_own({**AS_TORCHVISION, **training})
    convert_back("torchvision")
    assert Path("z.pth").is_file()


@pytest.mark.parametrize("num_convs", [1, 7])
def test_settings_that_weights_do_not_show_are_in_the_file_for_mmdet(folder, capsys, num_convs):
    save_own(
        {
            "MODEL.FCOS.NUM_CLS_CONVS": num_convs,
            "MODEL.FCOS.NUM_BOX_CONVS": num_convs,
            "MODEL.PIXEL_STD": [1.5, 2.0, 3.0],
            "INPUT.FORMAT": "RGB",
            "MODEL.RESNETS.STRIDE_IN_1X1": False,
            "MODEL.FCOS.NMS_THRESH_TEST": 0.7,
        }
    )
    convert_back("mmdet")
    assert "MODEL.FCOS.BOX_ACTIVATION = 'relu'" in capsys.readouterr().out
    names = torch.load("z.pth", weights_only=True)["state_dict"]
    # The file has no biases of towers, which are zero. Without the settings in the file, its recipe
    # would be taken for that of ICCV.
    assert not [x for x in names if re.fullmatch(r"bbox_head\.\w+_convs\.\d\.conv\.bias", x)]
    convert("z.pth", "-o", "again.pth")
    own, again = (load_config(x, []) for x in ("own.yaml", "again.yaml"))
    assert again.MODEL.FCOS.BOX_ACTIVATION == own.MODEL.FCOS.BOX_ACTIVATION == "relu"
    assert again.MODEL.FCOS.CENTERNESS_ON == own.MODEL.FCOS.CENTERNESS_ON
    assert again.MODEL.FCOS.NMS_THRESH_TEST == 0.7
    assert again.MODEL.PIXEL_STD == [1.5, 2.0, 3.0]
    assert again.INPUT.FORMAT == "RGB"
    assert not again.MODEL.RESNETS.STRIDE_IN_1X1
    weights, before = (read_checkpoint(x)["model"] for x in ("again.pth", "own.pth"))
    assert all(torch.equal(x, before[k]) for k, x in weights.items())


def test_settings_that_the_user_must_make_in_the_other_project_are_printed(folder, capsys):
    save_own({"MODEL.FPN.FUSE_TYPE": "avg", "MODEL.PIXEL_STD": [57.375, 57.12, 58.395]})
    convert_back("adelaidet")
    printed = capsys.readouterr().out
    for setting, default in (
        ("MODEL.FPN.FUSE_TYPE = 'avg'", "'sum'"),
        ("MODEL.PIXEL_STD = [57.375, 57.12, 58.395]", "[1"),
    ):
        (line,) = (x for x in printed.splitlines() if setting in x)
        assert default in line.partition(setting)[2]


def test_scales_are_refused_because_torchvision_does_not_have_them(folder):
    convert(MMDET, "-o", "y.pth")
    arguments = ["y.pth", "--to", "torchvision", "--config-file", "y.yaml", "-o", "z.pth"]
    opts = {k: str(x).replace(" ", "") for k, x in TORCHVISION_INPUT.items()}
    check_refusal(*arguments, *as_opts(opts), words=["head.scales.0.scale, "])
