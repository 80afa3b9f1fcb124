"""The model from plain constructors: a LazyConfig, and parts that do not agree."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from golden import lazy_config
from omegaconf import OmegaConf
from tiny import STRIDES, random_input

from fcos_d2.errors import InputError
from fcos_d2.modeling.levels import Levels


def test_a_model_can_be_built_from_a_lazy_config():
    config = lazy_config()
    config.dense_head.postprocessor.nms_thresh_test = 0.4
    model = instantiate(config)
    assert model.postprocessor.nms_thresh_test == 0.4
    batch = [random_input(3), random_input(2, seed=1)]
    assert set(model(batch)) == {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}
    with torch.no_grad():
        assert "instances" in model.eval()(batch)[0]


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("pixel_std", [0.0, 1.0, 1.0], "pixel_std"),
        ("pixel_mean", [1.0, 2.0], "MODEL.PIXEL_STD"),  # PIXEL_STD has three values
    ],
)
def test_wrong_pixel_statistics_are_an_error(name, value, key):
    config = lazy_config()
    config[name] = value
    with pytest.raises(InputError) as caught:
        instantiate(config)
    assert caught.value.key == key


HALVES = L(Levels)(strides=[4, 8, 16, 32, 64])
CORNERS = L(Levels)(strides=STRIDES, location_offset=0)


@pytest.mark.parametrize(
    ("name", "value", "key", "words"),
    [
        ("num_classes", 80, "num_classes", ["is 5", "is 80"]),
        ("dense_head.losses.box_quality", "none", "predict_quality", ["True", "False"]),
        (
            "dense_head.head.input_shape",
            [ShapeSpec(channels=64)] * 5,
            "in_channels",
            ["is 64", "is 32"],
        ),
        (
            "dense_head.head.input_shape",
            [ShapeSpec(channels=32)] * 4,
            "num_levels",
            ["is 4", "is 5"],
        ),
        ("dense_head.levels", HALVES, "levels.strides", ["[4, 8", "[8, 16"]),
        ("dense_head.assigner.levels", HALVES, "assigner", ["(4, 8", "(8, 16"]),
        ("dense_head.losses.levels", CORNERS, "losses", ["offset=0.0", "offset=0.5"]),
    ],
)
def test_parts_that_do_not_agree_are_an_error(name, value, key, words):
    config = lazy_config()
    OmegaConf.update(config, name, value)
    with pytest.raises(InputError) as caught:
        instantiate(config)
    assert caught.value.key == key
    assert all(word in caught.value.text for word in words)
