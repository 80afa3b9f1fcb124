"""Every weight of full-size models of other projects has a place in our model, or is unused."""

import re
from pathlib import Path

import pytest
import torch
from input_errors import input_error

from fcos_d2.arguments import get
from fcos_d2.checkpoint import SOURCES
from fcos_d2.checkpoint.conversion import convert_content, expected_shapes

FOLDER = Path(__file__).resolve().parents[1] / "data" / "keys"
LISTS = sorted(FOLDER.glob("*.txt"))
NUM_UNUSED = {"adelaidet_RT_MS_DLA_34": 12, "mmdet": 53}

ADELAIDET_RT = {
    "MODEL.FCOS.IN_FEATURES": ["p3", "p4", "p5"],
    "MODEL.FCOS.SIZES_OF_INTEREST": [64, 128],
    "MODEL.FCOS.TOP_LEVELS": 0,
    "INPUT.MIN_SIZE_TEST": 512,
}
DLA = {
    **ADELAIDET_RT,
    "MODEL.BACKBONE.NAME": "build_fcos_timm_fpn_backbone",
    "MODEL.TIMM.NAME": "dla34",
    "MODEL.TIMM.NORM": "",
}
R_50 = {
    "MODEL.BACKBONE.NAME": "build_fcos_resnet_fpn_backbone",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.FCOS.NORM": "GN",
    "MODEL.FCOS.NUM_CLASSES": 80,
    "MODEL.FCOS.TOP_LEVELS": 2,
    "MODEL.FCOS.TOP_IN_FEATURE": "p5",
    "MODEL.FCOS.USE_SCALE": True,
    "MODEL.FCOS.USE_DEFORMABLE": False,
    "INPUT.FORMAT": "BGR",
}
IMAGENET_RGB = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}
TORCHVISION = {
    **R_50,
    **IMAGENET_RGB,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.FCOS.USE_SCALE": False,
    "MODEL.FCOS.LOCATION_OFFSET": 0.0,
    "MODEL.FCOS.THRESH_WITH_CTR": True,
    "MODEL.FCOS.SCORE_THRESH_TEST": 0.04,
    "MODEL.FCOS.NUM_CLASSES": 91,
}
# name of the list: keys of the converted config
CONFIGS = {
    "adelaidet_MS_X_101_32x8d_2x_dcnv2": {
        "MODEL.RESNETS.DEPTH": 101,
        "MODEL.RESNETS.NUM_GROUPS": 32,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, True, True],
        "MODEL.RESNETS.DEFORM_MODULATED": True,
        "MODEL.RESNETS.DEFORM_NUM_GROUPS": 1,
        "MODEL.PIXEL_STD": [57.375, 57.12, 58.395],
        "MODEL.FCOS.USE_DEFORMABLE": True,
    },
    "adelaidet_RT_MS_DLA_34_4x_syncbn": {**DLA, "MODEL.FCOS.NORM": "GN"},
    "adelaidet_RT_MS_DLA_34_4x_syncbn_bn_head": {**DLA, "MODEL.FCOS.NORM": "BN"},
    "adelaidet_RT_MS_DLA_34_4x_syncbn_shared_towers": {
        **DLA,
        "MODEL.FCOS.NUM_SHARE_CONVS": 4,
        "MODEL.FCOS.NUM_CLS_CONVS": 0,
        "MODEL.FCOS.NUM_BOX_CONVS": 0,
        "MODEL.FCOS.NORM": "GN",
    },
    "adelaidet_RT_MS_DLA_34_4x_syncbn_shared_towers_bn_head": {
        **DLA,
        "MODEL.FCOS.NUM_SHARE_CONVS": 4,
        "MODEL.FCOS.NORM": "BN",
    },
    "adelaidet_RT_MS_R_50_4x_syncbn_bn_head": {
        **R_50,
        **ADELAIDET_RT,
        "MODEL.RESNETS.NORM": "BN",
        "MODEL.FCOS.NORM": "BN",
    },
    "adelaidet_R_50_1x": {**R_50, "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675]},
    "detectron2_builtin_fcos_R_50_FPN_1x": {
        **R_50,
        "MODEL.FCOS.USE_SCALE": False,
        "MODEL.FCOS.THRESH_WITH_CTR": True,
        "MODEL.FCOS.SCORE_THRESH_TEST": 0.04,
    },
    "mmdet_fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco": {
        **R_50,
        "MODEL.FCOS.BOX_ACTIVATION": "relu",
        "MODEL.FCOS.CENTERNESS_ON": "box",
        "MODEL.FCOS.NMS_THRESH_TEST": 0.6,
    },
    "mmdet_fcos_r50-caffe_fpn_gn-head_1x_coco": {
        **R_50,
        "MODEL.FCOS.BOX_ACTIVATION": "exp",
        "MODEL.FCOS.CENTERNESS_ON": "cls",
        "MODEL.FCOS.NMS_THRESH_TEST": 0.5,
    },
    "original_fcos_R_50_FPN_1x": {**R_50, "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717]},
    "original_fcos_imprv_dcnv2_R_50_FPN_1x": {
        **R_50,
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True],
        "MODEL.RESNETS.DEFORM_MODULATED": True,
        "MODEL.FCOS.USE_DEFORMABLE": True,
    },
    "original_fcos_syncbn_bs32_c128_MNV2_FPN_1x": {
        "MODEL.BACKBONE.NAME": "build_fcos_timm_fpn_backbone",
        "MODEL.TIMM.NAME": "mobilenetv2_100",
        "MODEL.TIMM.NORM": "",
        "MODEL.FPN.OUT_CHANNELS": 128,
    },
    "torchvision_fcos_resnet50_fpn": {**TORCHVISION, "MODEL.RESNETS.NORM": "BN"},
    "torchvision_fcos_resnet50_fpn_frozenbn": TORCHVISION,
}


def read_list(path):
    """Return {name: expanded tensor of ones} with the listed shapes and dtypes."""
    weights = {}
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            name, shape, *dtype = line.split()
            size = [] if shape == "scalar" else [int(x) for x in shape.split("x")]
            one = torch.ones((), dtype=getattr(torch, *dtype or ["float32"]))
            weights[name] = one.expand(size)
    return weights


@pytest.fixture(params=LISTS, ids=[path.stem for path in LISTS])
def key_list(request):
    if "DLA" in request.param.stem or "MNV2" in request.param.stem:
        pytest.importorskip("timm")
    return request.param


def unused_names(source, weights):
    return {x for x in weights if any(re.fullmatch(pattern, x) for pattern in source.dead)}


def test_every_weight_has_one_place_with_its_shape_or_is_unused(key_list):
    weights = read_list(key_list)
    converted = convert_content({"model": weights})
    source = SOURCES[converted.source]
    assert key_list.stem.startswith(source.name)
    unused = unused_names(source, weights)
    expected_num = [n for start, n in NUM_UNUSED.items() if key_list.stem.startswith(start)]
    assert [len(unused)] == (expected_num or [0])
    new_names = [source.keys.to_ours(name) for name in weights.keys() - unused]
    assert None not in new_names
    assert len(set(new_names)) == len(new_names)
    expected = expected_shapes(converted.cfg)
    assert {name: x.shape for name, x in converted.weights.items()} == expected
    # The converted weights also have the biases of towers, which mmdet leaves out.
    added = expected.keys() - set(new_names)
    assert all("_tower." in x and x.endswith(".bias") and source.name == "mmdet" for x in added)


def test_the_config_describes_the_model(key_list):
    cfg = convert_content({"model": read_list(key_list)}).cfg
    expected = CONFIGS[key_list.stem]
    assert {key: get(cfg, key) for key in expected} == expected


CONVERTIBLE_BACK = [
    path for path in LISTS if path.stem.startswith(("adelaidet", "mmdet", "torchvision"))
]


@pytest.mark.parametrize("path", CONVERTIBLE_BACK, ids=[path.stem for path in CONVERTIBLE_BACK])
def test_names_are_the_same_after_converting_there_and_back(path):
    if "DLA" in path.stem:
        pytest.importorskip("timm")
    weights = read_list(path)
    converted = convert_content({"model": weights})
    source = SOURCES[converted.source]
    back = source.to_theirs(converted.weights)
    shapes = {source.keys.to_theirs(name): x.shape for name, x in back.items()}
    unused = unused_names(source, weights)
    assert shapes == {name: x.shape for name, x in weights.items() if name not in unused}


def test_the_batch_norms_of_detectron2s_head_are_an_error():
    # In detectron2, the levels share the weights of these norms, see docs/checkpoints.md.
    (path,) = [path for path in LISTS if path.stem.startswith("detectron2")]
    statistics = {f"head.cls_subnet.1.{i}.running_mean": torch.ones(256) for i in range(5)}
    with input_error("head.cls_tower.1.0.running_mean"):
        convert_content({"model": {**read_list(path), **statistics}})
