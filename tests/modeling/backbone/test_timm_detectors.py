"""Detectors with networks of timm, from a YAML file to a training step and to detections."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from tiny import random_input

from fcos_d2.engine import load_prediction_config

pytest.importorskip("timm")

QUICK = ["mobilenetv2_100", "swin_tiny_patch4_window7_224"]
SLOW = ["resnet18", "dla34", "hrnet_w18", "ese_vovnet39b", "convnext_tiny", "efficientnet_lite0"]
NETWORKS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]

CONFIG = """
MODEL:
  META_ARCHITECTURE: "FCOS"
  DEVICE: "cpu"
  BACKBONE:
    NAME: "build_fcos_timm_fpn_backbone"
    FREEZE_AT: {freeze_at}
  TIMM:
    NAME: "{name}"
    NORM: "{norm}"
  FPN:
    IN_FEATURES: ["res3", "res4", "res5"]
    OUT_CHANNELS: 64
  FCOS:
    NUM_CLASSES: 5
    NUM_CLS_CONVS: 1
    NUM_BOX_CONVS: 1
SOLVER:
  BASE_LR: 0.01
  WARMUP_ITERS: 0
VERSION: 2
"""


def make_detector(folder, name, freeze_at=0, norm=""):
    file = folder / "config.yaml"
    file.write_text(CONFIG.format(name=name, freeze_at=freeze_at, norm=norm))
    cfg = load_prediction_config(str(file), [])
    return cfg, build_model(cfg)


def train_a_step(cfg, model):
    """Train one step, and return the parameters before it by name."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(cfg, model)
    losses = model([random_input(3), random_input(0)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    optimizer.step()
    return before


@pytest.mark.parametrize("name", NETWORKS)
def test_a_detector_trains_a_step_and_detects(tmp_path, name):
    torch.manual_seed(0)
    cfg, model = make_detector(tmp_path, name)
    assert cfg.INPUT.FORMAT == "RGB"  # the format of timm's weights
    before = train_a_step(cfg, model)
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, key  # DDP would wait for it
        assert parameter.grad.isfinite().all(), key
        assert parameter.isfinite().all(), key
    changed = [k for k, p in model.named_parameters() if not torch.equal(p, before[k])]
    for part in ("backbone.bottom_up.net.", "backbone.fpn_lateral3.", "head.bbox_pred."):
        assert any(key.startswith(part) for key in changed), part
    model.postprocessor.score_thresh_test = 0.0
    (output,) = model.eval()([random_input(0)])
    instances = output["instances"]
    assert len(instances) == 100
    assert instances.pred_boxes.tensor.isfinite().all()
    assert (instances.scores > 0).all()


def test_frozen_parameters_and_statistics_do_not_change(tmp_path):
    torch.manual_seed(0)
    cfg, model = make_detector(tmp_path, "mobilenetv2_100", freeze_at=2, norm="FrozenBN")
    buffers = {k: b.clone() for k, b in model.backbone.bottom_up.named_buffers()}
    before = train_a_step(cfg, model)
    frozen = {key for key, p in model.named_parameters() if torch.equal(p, before[key])}
    assert "backbone.bottom_up.net.conv_stem.weight" in frozen
    assert any(key.startswith("backbone.bottom_up.net.blocks.1.") for key in frozen)
    assert not any(key.startswith("backbone.bottom_up.net.blocks.2.") for key in frozen)
    assert any("running_mean" in key for key in buffers)
    for key, buffer in model.backbone.bottom_up.named_buffers():
        assert torch.equal(buffer, buffers[key]), key
