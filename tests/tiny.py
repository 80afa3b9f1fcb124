"""Small configs, models and inputs that the tests share."""

import json
from itertools import chain

import torch
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import Boxes, Instances

from fcos_d2 import new_cfg
from fcos_d2.modeling.predictions import DensePredictions

# The levels P3 to P7, and the (height, width) of their maps for an image of 96 x 128 pixels.
STRIDES = [8, 16, 32, 64, 128]
MAP_SIZES = [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]

# Overrides that make ``tiny_cfg`` a Mask R-CNN with detectron2's RPN.
MASK_RCNN = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.RPN.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16], [32], [64], [128], [256]],
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4", "p5"],
    "MODEL.ROI_HEADS.NUM_CLASSES": 5,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.MASK_ON": True,
    "INPUT.MASK_FORMAT": "bitmask",
}


def tiny_cfg(*opts):
    """
    Return the config of an FCOS of 0.2 M parameters for the CPU.

    Args:
        opts: Overrides, as dicts ``{key: value}``, as key, value, key, value, ..., or as both. If
            a key occurs several times, the last value is used.
    """
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
    cfg.MODEL.FPN.OUT_CHANNELS = 64  # On a map of one cell, GN(32) needs two channels per group.
    cfg.MODEL.FCOS.NUM_CLASSES = 5
    cfg.MODEL.FCOS.NUM_CLS_CONVS = 1
    cfg.MODEL.FCOS.NUM_BOX_CONVS = 1
    items = (chain.from_iterable(x.items()) if isinstance(x, dict) else [x] for x in opts)
    cfg.merge_from_list(list(chain.from_iterable(items)))
    return cfg


TWO_STAGES = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.PROPOSAL_GENERATOR.NAME": "FCOS",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 50,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 40,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 30,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.NUM_CLASSES": 5,
    "MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4", "p5"],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 3,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": [16],
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 5,
}


def two_stage_cfg(*opts):
    """Return a tiny config of a two-stage detector with FCOS as its proposal generator."""
    return tiny_cfg(TWO_STAGES, *opts)


def timm_cfg(name, *opts):
    """Return the config of ``tiny_cfg(*opts)`` with an FPN on a network of timm."""
    return tiny_cfg(
        {"MODEL.BACKBONE.NAME": "build_fcos_timm_fpn_backbone", "MODEL.TIMM.NAME": name}, *opts
    )


def build_pyramid(*opts):
    """Build the backbone of ``tiny_cfg(*opts)``, and return it with its maps of a random image."""
    backbone = build_backbone(tiny_cfg(*opts))
    return backbone, backbone(torch.rand(1, 3, 96, 128))


def seeded_model(*opts, seed=0):
    """Build the model of ``tiny_cfg(*opts)`` with the random weights of a seed."""
    torch.manual_seed(seed)
    return build_model(tiny_cfg(*opts))


def detector(*opts):
    """Build a random model in evaluation mode that detects many boxes, few of them empty."""
    model = seeded_model({"MODEL.FCOS.PRIOR_PROB": 0.2}, *opts).eval()
    with torch.no_grad():
        for predictor in (model.head.cls_logits, model.head.bbox_pred, model.head.centerness):
            predictor.weight.mul_(10)
        model.head.bbox_pred.bias.fill_(1.0)
    return model


def make_instances(boxes, classes=None, image_size=(512, 512), masks=None):
    """
    Make the annotations of one image.

    Args:
        boxes (Tensor | list): (M, 4), xyxy in pixels. M may be 0.
        classes (Sequence[int] | None): The class of each box. None means that all are of class 0.
        image_size (tuple[int, int]): Height and width.
        masks (PolygonMasks | BitMasks | None): ``gt_masks``, where the test needs them.
    """
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    classes = [0] * len(instances.gt_boxes) if classes is None else list(classes)
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    if masks is not None:
        instances.gt_masks = masks
    return instances


def random_instances(num_boxes, height, width, num_classes=5, seed=0):
    """Draw the annotations of one image: boxes of 10 to 60 % of its extent."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height], dtype=torch.float32)
    extent = (0.1 + 0.5 * torch.rand(num_boxes, 2, generator=generator)) * size
    corner = torch.rand(num_boxes, 2, generator=generator) * (size - extent)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.cat([corner, corner + extent], dim=1))
    instances.gt_classes = torch.randint(num_classes, (num_boxes,), generator=generator)
    return instances


def random_input(num_boxes, height=96, width=128, seed=0):
    """Draw the input dict of one image: random pixels and annotations."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.rand(3, height, width, generator=generator) * 255,
        "instances": random_instances(num_boxes, height, width, seed=seed),
    }


def random_tensor(*shape, seed=0):
    """Draw a tensor of standard normal numbers, the same for each call with the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_maps(channels, sizes=MAP_SIZES, num_images=2, seed=0, scale=1.0, device="cpu"):
    """Draw one map (N, channels, Hi, Wi) per level, of normal numbers times ``scale``."""
    generator = torch.Generator().manual_seed(seed)
    maps = (torch.randn(num_images, channels, h, w, generator=generator) for h, w in sizes)
    return [(x * scale).to(device) for x in maps]


def predictions_of(maps):
    """Return (class logits, raw ltrb, quality logits or None) in the form that a head returns."""
    cls_logits, raw_ltrb, quality_logits = maps
    return DensePredictions(cls_logits, raw_ltrb, quality_logits or None, extra={})


def read_detections(folder, name="inference"):
    """Return the detections that an evaluation of a run has written."""
    return json.loads((folder / name / "coco_instances_results.json").read_text())


def read_metrics(folder):
    """Return the lines of a run's ``metrics.json`` as dicts."""
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
