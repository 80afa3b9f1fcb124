"""The config of a converted model: values from the weights, the file or the flags, or assumed."""

import pytest
import torch
from peer_fixtures import PEERS, load_peer
from weights_files import load_peer_file, load_peer_weights

from fcos_d2.arguments import get
from fcos_d2.checkpoint.conversion import convert_content


@pytest.mark.parametrize("name", PEERS)
def test_the_config_has_the_values_of_the_other_project(name):
    peer = load_peer(name)
    cfg, peer_config = peer.converted.cfg, peer.meta["config"]
    expected = {
        "MODEL.FCOS.NUM_CLASSES": peer.meta["num_classes"],
        "MODEL.FCOS.SCORE_THRESH_TEST": peer.meta["thresholds"]["score"],
        "MODEL.FCOS.NMS_THRESH_TEST": peer.meta["thresholds"]["nms_iou"],
        "MODEL.FCOS.TOPK_CANDIDATES_TEST": peer.meta["thresholds"]["pre_nms_topk_per_level"],
        "TEST.DETECTIONS_PER_IMAGE": peer.meta["thresholds"]["post_nms_topk"],
        "MODEL.FCOS.IN_FEATURES": peer.meta["levels"],
        "INPUT.FORMAT": "BGR",
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 4,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
        "MODEL.FPN.OUT_CHANNELS": 32,
        "MODEL.FCOS.LOCATION_OFFSET": 0.5,
    }
    if peer.project == "mmdet":
        model = peer_config["model"]
        head = model["bbox_head"]
        expected |= {
            "MODEL.PIXEL_MEAN": model["data_preprocessor"]["mean"],
            "MODEL.FCOS.BOX_ACTIVATION": "relu" if head.get("norm_on_bbox") else "exp",
            "MODEL.FCOS.CENTERNESS_ON": "box" if head.get("centerness_on_reg") else "cls",
            "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 1.5 if head.get("center_sampling") else 0.0,
            "FCOS_TRAIN.CLASS_NAMES": [f"class{i}" for i in range(peer.meta["num_classes"])],
        }
    elif peer.project == "original":
        fcos = peer_config["MODEL.FCOS"]
        expected |= {
            "MODEL.PIXEL_MEAN": peer_config["INPUT.PIXEL_MEAN"],
            "MODEL.FCOS.BOX_ACTIVATION": "relu" if fcos["NORM_REG_TARGETS"] else "exp",
            "MODEL.FCOS.CENTERNESS_ON": "box" if fcos["CENTERNESS_ON_REG"] else "cls",
            "MODEL.FCOS.CENTER_SAMPLING_RADIUS": fcos["CENTER_SAMPLING_RADIUS"],
            "MODEL.FCOS.LOC_LOSS_TYPE": fcos["IOU_LOSS_TYPE"],
            "MODEL.FCOS.USE_DEFORMABLE": fcos["USE_DCN_IN_TOWER"],
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE": peer_config["MODEL.RESNETS"]["STAGE_WITH_DCN"],
        }
    else:
        expected |= {
            "MODEL.PIXEL_MEAN": peer_config["MODEL.PIXEL_MEAN"],
            "MODEL.FCOS.THRESH_WITH_CTR": peer_config["MODEL.FCOS"]["THRESH_WITH_CTR"],
        }
    assert {key: get(cfg, key) for key in expected} == expected


def test_values_that_the_file_does_not_have_are_assumed():
    assumed = load_peer("adelaidet_gn_ctrness").converted.assumed
    assert "MODEL.PIXEL_MEAN" not in assumed  # it is among the weights
    assert assumed["MODEL.FCOS.BOX_QUALITY"] == "centerness"
    weights = load_peer_weights("adelaidet_gn_ctrness")
    weights = {k: x for k, x in weights.items() if not k.startswith("pixel_")}
    assert "MODEL.PIXEL_MEAN" in convert_content({"model": weights}).assumed
    assumed = load_peer("original_fcos_v1").converted.assumed
    assert "MODEL.FCOS.BOX_ACTIVATION" not in assumed  # a flag sets it
    content = load_peer_file("original_fcos_v1")
    assert convert_content(content).assumed["MODEL.FCOS.BOX_ACTIVATION"] == "relu"
    converted = convert_content(content, opts=["MODEL.FCOS.BOX_ACTIVATION", "exp"])
    assert "MODEL.FCOS.BOX_ACTIVATION" not in converted.assumed
    assert converted.cfg.MODEL.FCOS.BOX_ACTIVATION == "exp"


def test_pixel_statistics_are_exactly_those_of_the_file():
    weights = load_peer_weights("adelaidet_gn_ctrness")
    mean = torch.tensor([103.53, 116.28123456, 1 / 3])
    cfg = convert_content({"model": {**weights, "pixel_mean": mean.view(3, 1, 1)}}).cfg
    assert torch.equal(torch.tensor(cfg.MODEL.PIXEL_MEAN), mean)
    assert cfg.MODEL.PIXEL_MEAN[0] == 103.53
