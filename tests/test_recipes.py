"""Every config builds and trains, with the published model's parameters; the table is right."""

import importlib.util
from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from tiny import random_input

from fcos_d2 import add_fcos_config, add_train_config, get_config_file

pytest.importorskip("timm")

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIGS = REPOSITORY / "configs"
README = (CONFIGS / "README.md").read_text()
OWN = ("own_data/", "shapes/", "quick_schedules/")  # not published by anyone
ALL = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
COMPLETE = [name for name in ALL if not Path(name).name.startswith("Base-")]
PUBLISHED = [name for name in COMPLETE if not name.startswith(OWN)]

_spec = importlib.util.spec_from_file_location(
    "count_configs", REPOSITORY / "benchmarks" / "count_configs.py"
)
count_configs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(count_configs)
ROWS = {row.config: row.cells for row in count_configs.rows_of(README)}


def load(name):
    cfg = get_cfg()
    add_fcos_config(cfg)
    add_train_config(cfg)
    cfg.merge_from_file(get_config_file(name))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.TIMM.PRETRAINED = False
    if name.startswith("own_data/"):
        cfg.MODEL.FCOS.NUM_CLASSES = 3  # which the user's data tell
    return cfg


@cache
def published_model(name):
    """On the device "meta": shapes without values, so that large models cost nothing."""
    return count_configs.build_recipe(name, "meta")[1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_has_the_parameters_that_the_recipe_builds(name):
    assert ROWS[name][-2] == count_configs.count_parameters(published_model(name))


def test_the_table_has_each_published_recipe_once_and_counts_for_it():
    rows = count_configs.rows_of(README)
    assert sorted(row.config for row in rows) == PUBLISHED
    for config, ap, gflops in ((row.config, row.cells[1], row.cells[-1]) for row in rows):
        assert ap == "-" or 30 < float(ap) < 50, config
        assert float(gflops) > 10, config


def test_all_other_configs_are_named_too():
    assert [name for name in COMPLETE if f"`{name}`" not in README] == []


def test_recipes_with_equal_weights_and_sizes_have_equal_operations():
    operations = {}
    for name in PUBLISHED:
        model = published_model(name)
        shapes = tuple((key, p.shape) for key, p in model.named_parameters())
        operations.setdefault((shapes, "/RT_" in name), set()).add(ROWS[name][-1])
    assert len(operations) > 15
    assert all(len(gflops) == 1 for gflops in operations.values())


def peer_parameters():
    lines = (REPOSITORY / "tests" / "data" / "peer_parameters.txt").read_text().splitlines()
    return {key: int(number) for key, number in (line.split() for line in lines[1:])}


# Two projections of DLA-34 that its forward pass never uses, with their norms.
DLA_DEAD = (64 * 128 + 2 * 128) + (128 * 256 + 2 * 256)
# Weights and biases of BatchNorm, which FrozenBatchNorm2d has as buffers.
R_50_NORMS = 2 * 26560
# torchvision has 91 classes of COCO's numbering, each a 3x3 convolution with bias on 256 channels.
UNUSED_CLASSES = (91 - 80) * (256 * 9 + 1)
TOWER_BIASES = 8 * 256  # which mmdetection leaves out in the 2019 version
GIOU = "r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco"
DLA = "RT_MS_DLA_34_4x_syncbn"


@pytest.mark.parametrize(
    ("name", "peer", "theirs_alone", "ours_alone"),
    [
        ("fcos_R_50_FPN_1x", "adelaidet_R_50_1x", 0, 0),
        ("adelaidet/R_50_1x_iou", "adelaidet_R_50_1x", 0, 0),
        ("adelaidet/MS_R_50_2x_iou", "adelaidet_R_50_1x", 0, 0),
        ("adelaidet/MS_X_101_32x8d_2x_dcnv2", "adelaidet_MS_X_101_32x8d_2x_dcnv2", 0, 0),
        (f"adelaidet/{DLA}", f"adelaidet_{DLA}", DLA_DEAD, 0),
        (f"adelaidet/{DLA}_bn_head", f"adelaidet_{DLA}_bn_head", DLA_DEAD, 0),
        (f"adelaidet/{DLA}_shared_towers", f"adelaidet_{DLA}_shared_towers", DLA_DEAD, 0),
        (
            f"adelaidet/{DLA}_shared_towers_bn_head",
            f"adelaidet_{DLA}_shared_towers_bn_head",
            DLA_DEAD,
            0,
        ),
        ("adelaidet/RT_MS_R_50_4x_syncbn_bn_head", "adelaidet_RT_MS_R_50_4x_syncbn_bn_head", 0, 0),
        ("fcos_R_50_FPN_1x_iccv", "original_fcos_R_50_FPN_1x", 0, 0),
        ("original/fcos_imprv_R_50_FPN_1x", "original_fcos_R_50_FPN_1x", 0, 0),
        (
            "original/fcos_imprv_dcnv2_R_50_FPN_1x",
            "original_fcos_imprv_dcnv2_R_50_FPN_1x",
            0,
            0,
        ),
        (
            "original/fcos_syncbn_bs32_c128_MNV2_FPN_1x",
            "original_fcos_syncbn_bs32_c128_MNV2_FPN_1x",
            0,
            0,
        ),
        (
            "torchvision/fcos_resnet50_fpn",
            "torchvision_fcos_resnet50_fpn_frozenbn",
            UNUSED_CLASSES,
            0,
        ),
        (
            "mmdet/fcos_r50-caffe_fpn_gn-head_1x_coco",
            "mmdet_fcos_r50-caffe_fpn_gn-head_1x_coco",
            R_50_NORMS,
            TOWER_BIASES,
        ),
        (f"mmdet/fcos_{GIOU}", f"mmdet_fcos_{GIOU}", R_50_NORMS, 0),
    ],
)
def test_parameters_are_as_many_as_the_published_model_has(name, peer, theirs_alone, ours_alone):
    ours = sum(p.numel() for p in published_model(f"{name}.yaml").parameters())
    assert ours - ours_alone == peer_parameters()[peer] - theirs_alone


# One of each kind; the rest, and the large ones, are slow.
QUICK = {
    "fcos_R_50_FPN_1x.yaml",
    "adelaidet/RT_MS_DLA_34_4x_syncbn_shared_towers_bn_head.yaml",
    "original/fcos_imprv_dcnv2_R_50_FPN_1x.yaml",
    "original/fcos_syncbn_bs32_c128_MNV2_FPN_1x.yaml",
    "torchvision/fcos_resnet50_fpn.yaml",
    "own_data/fcos_efficientnet_lite0.yaml",
    "shapes/fcos_shapes_demo.yaml",
}


def slow_unless_quick(name):
    return name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [slow_unless_quick(name) for name in COMPLETE])
def test_every_config_trains_and_detects(name):
    torch.manual_seed(0)
    cfg = load(name)
    model = build_model(cfg)
    images = [random_input(2, 64, 96), random_input(0, 64, 64)]
    for image in images:
        image["instances"].gt_classes %= model.num_classes
    losses = model(images)
    qualities = {"centerness": {"loss_fcos_ctr"}, "iou": {"loss_fcos_iou"}}
    assert set(losses) == {"loss_fcos_cls", "loss_fcos_loc"} | qualities[cfg.MODEL.FCOS.BOX_QUALITY]
    sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad.isfinite().all(), key
    (output,) = model.eval()([random_input(0, 64, 64)])
    assert output["instances"].image_size == (64, 64)


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith(OWN)])
def test_recipes_for_coco_need_only_the_model_keys(name):
    # So that a project of someone else's, which has no FCOS_TRAIN, can merge them.
    cfg = get_cfg()
    add_fcos_config(cfg)
    cfg.merge_from_file(get_config_file(name))
    assert cfg.DATASETS.TRAIN == ("coco_2017_train",)
    assert cfg.SOLVER.WARMUP_ITERS > 0
    assert cfg.SOLVER.STEPS[-1] < cfg.SOLVER.MAX_ITER


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_to_start_from_are_named_once(name):
    cfg = get_cfg()
    add_fcos_config(cfg)
    cfg.merge_from_file(get_config_file(name))
    if "timm" not in cfg.MODEL.BACKBONE.NAME:
        assert cfg.MODEL.WEIGHTS
        assert not cfg.MODEL.TIMM.PRETRAINED
    else:
        assert not cfg.MODEL.WEIGHTS
        without = cfg.MODEL.TIMM.NAME == "ese_vovnet99b"  # as its file says
        assert cfg.MODEL.TIMM.PRETRAINED is not without
