"""Pixel statistics and channel order of timm's weights, if a config does not set them."""

import logging

import pytest
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone, build_model
from tiny import timm_cfg, tiny_cfg
from tiny_lazy import TIMM, overrides

from fcos_d2 import add_fcos_config, add_train_config, get_config_file
from fcos_d2.engine import load_prediction_config, prepare_lazy_config
from fcos_d2.errors import InputError
from fcos_d2.modeling.backbone.timm_pixels import logger

timm = pytest.importorskip("timm")

NETWORK = """VERSION: 2
MODEL:
  META_ARCHITECTURE: "FCOS"
  DEVICE: "cpu"
  BACKBONE: {NAME: "build_fcos_timm_fpn_backbone"}
  TIMM: {NAME: "ese_vovnet57b"}
"""
HALVES = [127.5, 127.5, 127.5]  # no default of detectron2 is equal to this
DEFAULTS = ("BGR", [103.53, 116.28, 123.675], [1.0, 1.0, 1.0])


def pixel_statistics_of(folder, text, *opts):
    """Load a config file, and return its image format, pixel mean and pixel standard deviation."""
    (folder / "config.yaml").write_text(text)
    cfg = load_prediction_config(str(folder / "config.yaml"), opts)
    return cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD


def test_a_config_without_pixel_statistics_gets_those_of_timms_weights_and_a_log_record(
    tmp_path, caplog
):
    with caplog.at_level(logging.INFO, logger="fcos_d2.engine.yaml_config"):
        assert pixel_statistics_of(tmp_path, NETWORK) == ("RGB", HALVES, HALVES)
    (record,) = caplog.records
    assert record.getMessage().splitlines()[1:] == [
        '  INPUT.FORMAT: "RGB"',
        "  MODEL.PIXEL_MEAN: [127.5, 127.5, 127.5]",
        "  MODEL.PIXEL_STD: [127.5, 127.5, 127.5]",
    ]


@pytest.mark.parametrize(
    ("text", "opts"),
    [
        (NETWORK, ("INPUT.FORMAT", "BGR")),
        (NETWORK, ("MODEL.PIXEL_STD=[1.0,1.0,1.0]",)),
        (NETWORK + "  PIXEL_STD: [1.0, 1.0, 1.0]\n", ()),
        ('_BASE_: "base.yaml"\n' + NETWORK, ()),
    ],
)
def test_values_that_a_config_sets_are_kept_even_if_they_are_the_defaults(
    tmp_path, caplog, text, opts
):
    (tmp_path / "base.yaml").write_text('INPUT: {FORMAT: "BGR"}')
    with caplog.at_level(logging.INFO, logger="fcos_d2.engine.yaml_config"):
        assert pixel_statistics_of(tmp_path, text, *opts) == DEFAULTS
    assert not caplog.records


def test_pixel_statistics_in_the_config_of_a_run_are_kept(tmp_path):
    cfg = get_cfg()
    add_fcos_config(cfg)
    add_train_config(cfg)
    cfg.merge_from_list(["MODEL.TIMM.NAME", "ese_vovnet57b", "MODEL.DEVICE", "cpu"])
    cfg.MODEL.META_ARCHITECTURE = "FCOS"
    cfg.MODEL.BACKBONE.NAME = "build_fcos_timm_fpn_backbone"
    assert pixel_statistics_of(tmp_path, cfg.dump()) == DEFAULTS


def test_the_defaults_of_detectron2_are_kept_for_other_networks(tmp_path):
    text = NETWORK.replace("build_fcos_timm_fpn_backbone", "build_fcos_resnet_fpn_backbone")
    assert pixel_statistics_of(tmp_path, text) == DEFAULTS


@pytest.fixture
def builder_of_another_package():
    """Register a backbone with timm's resnet18, whose name does not contain timm."""

    @BACKBONE_REGISTRY.register()
    def build_resnet18_backbone(cfg, input_shape):
        class ResNet18(Backbone):
            def __init__(self):
                super().__init__()
                self.net = timm.create_model("resnet18", features_only=True, out_indices=(2, 3, 4))

            def forward(self, x):
                return dict(zip(("p3", "p4", "p5"), map(self.project, self.net(x)), strict=True))

            def output_shape(self):
                shapes = zip((8, 16, 32), (64, 64, 64), strict=True)
                return {f"p{i}": ShapeSpec(c, stride=s) for i, (s, c) in enumerate(shapes, 3)}

        return ResNet18()

    build_resnet18_backbone.__module__ = "another_package"
    yield "build_resnet18_backbone"
    del BACKBONE_REGISTRY._obj_map["build_resnet18_backbone"]


def test_a_builder_of_another_package_gets_the_pixel_statistics_too(
    tmp_path, builder_of_another_package
):
    text = NETWORK.replace("build_fcos_timm_fpn_backbone", builder_of_another_package)
    assert pixel_statistics_of(tmp_path, text) == ("RGB", HALVES, HALVES)
    assert pixel_statistics_of(tmp_path, text.replace("ese_vovnet57b", "")) == DEFAULTS


def test_pixel_statistics_are_checked_for_a_network_of_timm_in_any_backbone(
    caplog, builder_of_another_package
):
    opts = {
        "MODEL.BACKBONE.NAME": builder_of_another_package,
        "MODEL.FCOS.IN_FEATURES": ["p3", "p4", "p5"],
        "MODEL.FCOS.SIZES_OF_INTEREST": [64, 128],
    }
    build_model(tiny_cfg(opts))
    (record,) = caplog.records
    assert "MODEL.BACKBONE.NAME = 'build_resnet18_backbone'" in record.getMessage()
    caplog.clear()
    statistics = {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [x * 255 for x in (0.485, 0.456, 0.406)],
        "MODEL.PIXEL_STD": [x * 255 for x in (0.229, 0.224, 0.225)],
    }
    build_model(tiny_cfg(opts, statistics))
    assert not caplog.records


def test_an_unknown_network_is_an_error(tmp_path):
    with pytest.raises(InputError, match="'vovnet'") as caught:
        pixel_statistics_of(tmp_path, NETWORK.replace("ese_vovnet57b", "vovnet"))
    assert caught.value.key == "MODEL.TIMM.NAME"


@pytest.mark.parametrize("eval_only", [False, True])
@pytest.mark.parametrize(("network", "warns"), [("convnext_atto", False), ("ese_vovnet57b", True)])
def test_a_lazy_config_is_compared_with_timms_weights(
    few_shapes, tmp_path, caplog, network, warns, eval_only
):
    keys = [
        *overrides("train", device="cpu", output_dir=tmp_path, init_checkpoint="x.pth"),
        *overrides("dataloader.train.dataset", names="shapes_train"),
        *overrides("dataloader.test.dataset", names="shapes_val"),
        *overrides("model", num_classes=6, **{"backbone.bottom_up.name": network}),
    ]
    prepare_lazy_config(str(TIMM), keys, eval_only=eval_only)
    if not warns:
        assert not caplog.records
        return
    (record,) = caplog.records
    first, *lines = record.getMessage().splitlines()
    assert "model.backbone.bottom_up.name = 'ese_vovnet57b'" in first
    assert lines == [
        f'  dataloader.{"test" if eval_only else "train"}.mapper.image_format: "RGB"',
        "  model.pixel_mean: [127.5, 127.5, 127.5]",
        "  model.pixel_std: [127.5, 127.5, 127.5]",
    ]


def warnings_of(cfg):
    """Return the warnings of building a backbone, whatever the configuration of loggers is."""
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    logger.addHandler(handler)
    try:
        build_backbone(cfg)
    finally:
        logger.removeHandler(handler)
    return [record.getMessage() for record in records]


def test_wrong_pixel_statistics_cause_a_warning_with_those_of_the_weights():
    (warning,) = warnings_of(timm_cfg("resnet18"))  # detectron2's defaults: BGR, std 1
    assert warning.splitlines()[1:] == [
        '  INPUT.FORMAT: "RGB"',
        "  MODEL.PIXEL_MEAN: [123.675, 116.28, 103.53]",
        "  MODEL.PIXEL_STD: [58.395, 57.12, 57.375]",
    ]
    right = {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    }
    assert warnings_of(timm_cfg("resnet18", right)) == []
    assert len(warnings_of(timm_cfg("resnet18", right, "INPUT.FORMAT", "BGR"))) == 1


def test_the_recipe_for_own_data_has_the_pixel_statistics_of_its_network():
    cfg = get_cfg()
    add_fcos_config(cfg)
    add_train_config(cfg)
    cfg.merge_from_file(get_config_file("own_data/fcos_efficientnet_lite0.yaml"))
    assert warnings_of(cfg) == []
