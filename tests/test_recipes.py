"""Every config trains, has the parameters of the published model, and is in the table."""

from functools import cache
from pathlib import Path

import count_configs
import pytest
import torch
from commands import REPOSITORY
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from tiny import random_input
from two_stage_models import FCOS_LOSSES, INPUTS, train_step

from fcos_d2 import (
    add_fcos_config,
    add_train_config,
    get_config_file,
    new_cfg,
    resolve_num_classes,
)

pytest.importorskip("timm")

CONFIGS = REPOSITORY / "configs"
README = (CONFIGS / "README.md").read_text()
OWN = ("own_data/", "shapes/", "quick_schedules/", "two_stage/")  # not published by anyone
ALL = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
COMPLETE = [name for name in ALL if not Path(name).name.startswith("Base-")]
PUBLISHED = [name for name in COMPLETE if not name.startswith(OWN)]
TWO_STAGES = [name for name in COMPLETE if "_rcnn_" in name or "proposals" in name]
ONE_STAGE = [name for name in COMPLETE if name not in TWO_STAGES]

ROWS = count_configs.find_recipe_rows(README)


def load(name):
    """Load a config for the CPU, without downloads."""
    cfg = get_cfg()
    add_fcos_config(cfg)
    add_train_config(cfg)
    cfg.merge_from_file(get_config_file(name))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.TIMM.PRETRAINED = False
    if name.startswith("own_data/"):
        cfg.MODEL.FCOS.NUM_CLASSES = 3  # usually taken from the user's data
    return cfg


def published_model(name):
    """
    Build a recipe on the device "meta": its parameters have shapes, but no values and no cost.

    Folding is off, because other projects count the parameters of their norms.
    """
    recipe = load(name)
    cfg = new_cfg()  # recipes with the same MODEL have the same config
    cfg.MODEL = recipe.MODEL
    cfg.MODEL.FCOS.NUM_CLASSES = resolve_num_classes(recipe)
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.FCOS.FOLD_FROZEN_BN = False
    return _build(cfg.dump())


@cache
def _build(text):
    """Build a model from the text of a config: several recipes have the same one."""
    with torch.device("meta"):
        return build_model(CfgNode.load_cfg(text))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_has_the_number_of_parameters_of_the_recipe(name):
    assert ROWS[name][-2] == count_configs.count_parameters(published_model(name))


def test_the_table_has_each_published_recipe_once_with_its_figures():
    assert sorted(ROWS) == PUBLISHED
    assert README.count("| [`") == len(PUBLISHED)
    for config, cells in ROWS.items():
        assert cells[1] == "-" or 30 < float(cells[1]) < 50, config
        assert float(cells[-1]) > 10, config


def test_the_readme_names_all_other_configs_too():
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
    """Return {published model: number of parameters}."""
    lines = (REPOSITORY / "tests" / "data" / "peer_parameters.txt").read_text().splitlines()
    return {key: int(number) for key, number in (line.split() for line in lines[1:])}


# Two projections of DLA-34, with their norms, that its forward pass does not use.
DLA_DEAD = (64 * 128 + 2 * 128) + (128 * 256 + 2 * 256)
# Weights and biases of BatchNorm, which FrozenBatchNorm2d has as buffers.
R_50_NORMS = 2 * 26560
# torchvision has 91 classes of COCO's numbering, each a 3x3 convolution with bias on 256 channels.
UNUSED_CLASSES = (91 - 80) * (256 * 9 + 1)
TOWER_BIASES = 8 * 256  # mmdetection has none in the 2019 version
# Recipe, the published model, and the parameters that only it has or only ours has.
SAME = [
    ("fcos_R_50_FPN_1x", "adelaidet_R_50_1x"),
    ("adelaidet/R_50_1x_iou", "adelaidet_R_50_1x"),
    ("adelaidet/MS_R_50_2x_iou", "adelaidet_R_50_1x"),
    ("adelaidet/MS_X_101_32x8d_2x_dcnv2", "adelaidet_MS_X_101_32x8d_2x_dcnv2"),
    ("adelaidet/RT_MS_R_50_4x_syncbn_bn_head", "adelaidet_RT_MS_R_50_4x_syncbn_bn_head"),
    ("fcos_R_50_FPN_1x_iccv", "original_fcos_R_50_FPN_1x"),
    ("original/fcos_imprv_R_50_FPN_1x", "original_fcos_R_50_FPN_1x"),
    ("original/fcos_imprv_dcnv2_R_50_FPN_1x", "original_fcos_imprv_dcnv2_R_50_FPN_1x"),
    ("original/fcos_syncbn_bs32_c128_MNV2_FPN_1x", "original_fcos_syncbn_bs32_c128_MNV2_FPN_1x"),
]
DLA = [
    "RT_MS_DLA_34_4x_syncbn",
    "RT_MS_DLA_34_4x_syncbn_bn_head",
    "RT_MS_DLA_34_4x_syncbn_shared_towers",
    "RT_MS_DLA_34_4x_syncbn_shared_towers_bn_head",
]
PLAIN = "fcos_r50-caffe_fpn_gn-head_1x_coco"
GIOU = "fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco"
TORCHVISION = "fcos_resnet50_fpn"


@pytest.mark.parametrize(
    ("name", "peer", "only_theirs", "only_ours"),
    [
        *((recipe, peer, 0, 0) for recipe, peer in SAME),
        *((f"adelaidet/{name}", f"adelaidet_{name}", DLA_DEAD, 0) for name in DLA),
        (f"torchvision/{TORCHVISION}", f"torchvision_{TORCHVISION}_frozenbn", UNUSED_CLASSES, 0),
        (f"mmdet/{PLAIN}", f"mmdet_{PLAIN}", R_50_NORMS, TOWER_BIASES),
        (f"mmdet/{GIOU}", f"mmdet_{GIOU}", R_50_NORMS, 0),
    ],
)
def test_a_recipe_has_as_many_parameters_as_the_published_model(name, peer, only_theirs, only_ours):
    ours = sum(p.numel() for p in published_model(f"{name}.yaml").parameters())
    assert ours - only_ours == peer_parameters()[peer] - only_theirs


# One config of each kind; the others are slow.
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


@pytest.mark.parametrize("name", [slow_unless_quick(name) for name in ONE_STAGE])
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


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_STAGES)
def test_every_two_stage_config_trains_and_detects(name):
    torch.manual_seed(0)
    cfg = load(name)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 5
    cfg.MODEL.RESNETS.NORM = "BN"  # with random weights, the maps of FrozenBN are huge
    model = build_model(cfg)
    losses = train_step(model, INPUTS)
    assert losses.keys() > FCOS_LOSSES or "proposals" in name
    for key, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad.isfinite().all(), key
    (output, _) = model.eval()(INPUTS)
    assert output.keys() == {"proposals" if "proposals" in name else "instances"}


COCO_RECIPES = [name for name in ALL if not name.startswith(OWN) or name.startswith("two_stage/")]


@pytest.mark.parametrize("name", COCO_RECIPES)
def test_recipes_for_coco_need_only_the_model_keys(name):
    # So that other projects, which have no FCOS_TRAIN, can merge them.
    cfg = get_cfg()
    add_fcos_config(cfg)
    cfg.merge_from_file(get_config_file(name))
    prefix = "keypoints_" if "keypoint" in name else ""
    assert (f"{prefix}coco_2017_train",) == cfg.DATASETS.TRAIN
    assert cfg.SOLVER.WARMUP_ITERS > 0
    assert cfg.SOLVER.STEPS[-1] < cfg.SOLVER.MAX_ITER


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_weights_to_start_from_are_in_one_key(name):
    cfg = get_cfg()
    add_fcos_config(cfg)
    cfg.merge_from_file(get_config_file(name))
    if "timm" not in cfg.MODEL.BACKBONE.NAME:
        assert cfg.MODEL.WEIGHTS
        assert not cfg.MODEL.TIMM.PRETRAINED
    else:
        assert not cfg.MODEL.WEIGHTS
        has_no_weights = cfg.MODEL.TIMM.NAME == "ese_vovnet99b"  # see the comment in its file
        assert cfg.MODEL.TIMM.PRETRAINED is not has_no_weights
