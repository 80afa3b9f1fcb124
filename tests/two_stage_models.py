"""Tiny two-stage detectors on FCOS, and images with masks and keypoints for them."""

import numpy as np
import torch
from detectron2.structures import Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage
from tiny import random_input, two_stage_cfg

from fcos_d2.modeling import build_model

FCOS_LOSSES = {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}
BOX_LOSSES = {"loss_cls", "loss_box_reg"}
CASCADE = {
    "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
}
CASCADE_LOSSES = {f"{name}_stage{i}" for name in BOX_LOSSES for i in range(3)}
# name: (config, losses of the ROI heads, fields of the detections)
MODELS = {
    "faster": ({}, BOX_LOSSES, set()),
    "mask": ({"MODEL.MASK_ON": True}, {*BOX_LOSSES, "loss_mask"}, {"pred_masks"}),
    "cascade": (CASCADE, CASCADE_LOSSES, set()),
    "keypoint": (
        {"MODEL.KEYPOINT_ON": True},
        {*BOX_LOSSES, "loss_keypoint"},
        {"pred_keypoints", "pred_keypoint_heatmaps"},
    ),
}
PROPOSALS = {"MODEL.META_ARCHITECTURE": "ProposalNetwork"}


def annotated_input(num_boxes, seed=0):
    """Draw the input dict of one image with masks and five keypoints for each object."""
    drawn = random_input(num_boxes, seed=seed)
    instances = drawn["instances"]
    boxes = instances.gt_boxes.tensor
    corners = boxes.numpy().astype(float)[:, [0, 1, 2, 1, 2, 3, 0, 3]]
    instances.gt_masks = PolygonMasks([[np.array(x)] for x in corners])
    shares = torch.linspace(0.1, 0.9, 5)[:, None]  # (5, 1)
    points = boxes[:, None, :2] + shares * (boxes[:, None, 2:] - boxes[:, None, :2])  # (M, 5, 2)
    visible = torch.full((num_boxes, 5, 1), 2.0)
    instances.gt_keypoints = Keypoints(torch.cat([points, visible], dim=2))
    return drawn


INPUTS = [annotated_input(3), annotated_input(0, seed=1)]  # one image without objects


def build(*opts):
    """Build the model of ``two_stage_cfg(*opts)`` with random weights."""
    torch.manual_seed(0)
    return build_model(two_stage_cfg(*opts))


def train_step(model, inputs, dtype=None):
    """Compute the losses and gradients of a step."""
    with EventStorage(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        losses = model(inputs)
    sum(losses.values()).backward()
    return losses
