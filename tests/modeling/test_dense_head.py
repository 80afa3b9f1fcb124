"""The model from plain constructors: its parts must agree."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from omegaconf import OmegaConf
from tiny import random_input

from fcos_d2 import (
    FCOS,
    FCOSAssigner,
    FCOSDenseHead,
    FCOSHead,
    FCOSLosses,
    FCOSPostProcessor,
    Levels,
)

LOSSES = {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}


def lazy_model():
    """The second door: plain constructors, nothing of cfg."""
    channels = 64
    levels = ["p3", "p4", "p5", "p6", "p7"]
    return L(FCOS)(
        backbone=L(FPN)(
            bottom_up=L(ResNet)(
                stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
                stages=L(ResNet.make_default_stages)(depth=18, norm="BN"),
                out_features=["res3", "res4", "res5"],
            ),
            in_features=["res3", "res4", "res5"],
            out_channels=channels,
            top_block=L(LastLevelP6P7)(
                in_channels=channels, out_channels=channels, in_feature="p5"
            ),
        ),
        dense_head=L(FCOSDenseHead)(
            levels=L(Levels)(strides=[8, 16, 32, 64, 128]),
            head=L(FCOSHead)(
                input_shape=[ShapeSpec(channels=channels)] * len(levels), num_classes=4
            ),
            assigner=L(FCOSAssigner)(levels="${..levels}"),
            losses=L(FCOSLosses)(levels="${..levels}"),
            postprocessor=L(FCOSPostProcessor)(levels="${..levels}"),
        ),
        head_in_features=levels,
        num_classes=4,
        pixel_mean=[103.53, 116.28, 123.675],
        pixel_std=[1.0, 1.0, 1.0],
    )


def test_it_can_be_built_from_a_lazy_config():
    config = lazy_model()
    config.dense_head.postprocessor.nms_thresh_test = 0.5
    model = instantiate(config)
    assert model.postprocessor.nms_thresh_test == 0.5
    sample = random_input(3)
    sample["instances"].gt_classes %= 4
    assert set(model([sample])) == LOSSES
    with torch.no_grad():
        assert "instances" in model.eval()([sample])[0]


@pytest.mark.parametrize(
    ("key", "value"), [("pixel_std", [0.0, 1.0, 1.0]), ("pixel_mean", [1.0, 2.0])]
)
def test_pixel_statistics_of_plain_constructors_are_checked(key, value):
    config = lazy_model()
    config[key] = value
    with pytest.raises(ValueError, match=f"(?i){key}"):
        instantiate(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 80}, "head's num_classes is 4, the model's is 80"),
        (
            {"dense_head.losses.box_quality": "none"},
            "head's predict_quality is True, the model's is False",
        ),
        (
            {"dense_head.head.input_shape": [ShapeSpec(channels=32)] * 5},
            "head's in_channels is 32, the model's is 64",
        ),
        (
            {"dense_head.head.input_shape": [ShapeSpec(channels=64)] * 4},
            "head's num_levels is 4, the model's is 5",
        ),
        (
            {"dense_head.levels": L(Levels)(strides=[4, 8, 16, 32, 64])},
            "the strides of the maps are",
        ),
        (
            {"dense_head.assigner.levels": L(Levels)(strides=[4, 8, 16, 32, 64])},
            r"The assigner part was built with Levels\(strides=\(4, 8, 16, 32, 64\)",
        ),
        (
            {
                "dense_head.losses.levels": L(Levels)(
                    strides=[8, 16, 32, 64, 128], location_offset=0
                )
            },
            r"The losses part was built with .*offset=0\.0.*, the model has .*offset=0\.5",
        ),
    ],
)
def test_parts_and_model_must_agree(changes, message):
    config = lazy_model()
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    with pytest.raises(ValueError, match=message):
        instantiate(config)
