"""Small configs and inputs that the tests share."""

import torch
from detectron2.structures import Boxes, Instances

from fcos_d2 import new_cfg
from fcos_d2.modeling.predictions import DensePredictions


def tiny_cfg(*opts):
    """An FCOS of 0.2 M parameters for the CPU; ``opts`` are key, value, key, value, ..."""
    cfg = new_cfg()
    cfg.MODEL.META_ARCHITECTURE = "FCOS"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_fcos_resnet_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 64  # GN(32) on a map of one cell needs two channels a group
    cfg.MODEL.FCOS.NUM_CLASSES = 5
    cfg.MODEL.FCOS.NUM_CLS_CONVS = 1
    cfg.MODEL.FCOS.NUM_BOX_CONVS = 1
    cfg.merge_from_list(list(opts))
    return cfg


def random_instances(num_boxes, height, width, num_classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height], dtype=torch.float32)
    extent = (0.1 + 0.5 * torch.rand(num_boxes, 2, generator=generator)) * size
    corner = torch.rand(num_boxes, 2, generator=generator) * (size - extent)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.cat([corner, corner + extent], dim=1))
    instances.gt_classes = torch.randint(num_classes, (num_boxes,), generator=generator)
    return instances


def random_input(num_boxes, height=96, width=128, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.rand(3, height, width, generator=generator) * 255,
        "instances": random_instances(num_boxes, height, width, seed=seed),
    }


def predictions_of(maps):
    """Class logits, raw ltrb and quality logits (maybe none) as a head returns them."""
    cls_logits, raw_ltrb, quality_logits = maps
    return DensePredictions(cls_logits, raw_ltrb, quality_logits or None, extra={})
