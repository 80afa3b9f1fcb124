"""
Models, boxes and comparisons that the parity tests share.

All detectors have the same tiny backbone, and their heads have the same weights. The boxes are such
that the assignment rules of all projects agree. In names, "our" means fcos_d2, and "their" means
the other project ("peer").
"""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.structures import Boxes, Instances
from peers import Ours
from torch import nn
from workloads import STRIDES, Batch

from fcos_d2 import new_cfg
from fcos_d2.modeling.levels import activate_ltrb, compute_locations, flatten_levels
from fcos_d2.modeling.losses.box import box_loss
from fcos_d2.modeling.losses.quality import centerness_targets

BORDERS = [64, 128, 256, 512]
CHANNELS = 64  # two channels per group; with one, GN would cancel the biases of the convolutions
NUM_CONVS = 2
NUM_CLASSES = 5

# The shorter sides are 256, which is torchvision's min_size here. Padded to multiples of 128, both
# images are 384 x 384.
IMAGE_SIZES = [(330, 256), (256, 300)]
PADDED_SIZE = (384, 384)
FEATURE_SIZES = [(384 // stride, 384 // stride) for stride in STRIDES]
NUM_LOCATIONS = sum(height * width for height, width in FEATURE_SIZES)


@BACKBONE_REGISTRY.register()
class SampledPyramid(Backbone):
    """A fast backbone with five levels: one convolution of every stride-th pixel."""

    size_divisibility = 128

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.mix = nn.Conv2d(3, CHANNELS, kernel_size=1)

    def forward(self, images):
        return {
            f"p{level}": self.mix(images[:, :, ::stride, ::stride])
            for level, stride in enumerate(STRIDES, start=3)
        }

    def output_shape(self):
        return {
            f"p{level}": ShapeSpec(channels=CHANNELS, stride=stride)
            for level, stride in enumerate(STRIDES, start=3)
        }


def draw_weights(peer, seed=0):
    """Draw all weights of a head at random, so that outputs vary and boxes are not empty."""
    head = peer.model.head
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        for module in head.modules():
            if isinstance(module, nn.GroupNorm):
                module.weight.add_(1)
        find_predictor(peer, "bbox_pred").bias.add_(1.5)


def find_predictor(peer, name):
    """Return the last convolution of a peer's head, given its name in our head."""
    return peer.model.head.get_submodule(peer.head_names[name])


def make_constant(predictor, value):
    """Make a convolution return ``value`` for all inputs."""
    nn.init.zeros_(predictor.weight)
    nn.init.constant_(predictor.bias, value)


def make_head_cfg(location_offset, radius=1.5, topk=1000, keep=100, nms=0.6):
    """Make the config of our head on ``SampledPyramid``; the adapters build the peers from it."""
    cfg = new_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "FCOS"
    cfg.MODEL.BACKBONE.NAME = "SampledPyramid"
    cfg.MODEL.FPN.OUT_CHANNELS = CHANNELS
    cfg.MODEL.FCOS.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.FCOS.NUM_CLS_CONVS = cfg.MODEL.FCOS.NUM_BOX_CONVS = NUM_CONVS
    cfg.MODEL.FCOS.LOCATION_OFFSET = location_offset
    cfg.MODEL.FCOS.CENTER_SAMPLING_RADIUS = radius
    cfg.MODEL.FCOS.TOPK_CANDIDATES_TEST = topk
    cfg.MODEL.FCOS.NMS_THRESH_TEST = nms
    cfg.TEST.DETECTIONS_PER_IMAGE = keep
    cfg.INPUT.MIN_SIZE_TEST = min(min(size) for size in IMAGE_SIZES)  # torchvision does not resize
    cfg.MODEL.PIXEL_MEAN = [0.0, 0.0, 0.0]
    cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
    return cfg


def build_both(peer_class, our_thresh=0.05, their_thresh=0.05**0.5, **kwargs):
    """
    Build our FCOS and a peer with the same tiny backbone and the same weights.

    All weights of the peer's head are copied. Only our scales, which the peer may not have, are set
    to 1. ``kwargs`` are those of ``make_head_cfg``.

    Returns:
        tuple[Ours, Peer]: The adapters of our FCOS and of the peer.
    """
    torch.manual_seed(0)
    cfg = make_head_cfg(peer_class.location_offset, **kwargs)
    ours = Ours.build(cfg)
    theirs = peer_class.build(cfg, ours.model.backbone)
    theirs.set_score_thresh(their_thresh)
    draw_weights(theirs)
    copy_head(theirs, ours.model.head)
    ours.set_score_thresh(our_thresh)
    return ours, theirs


def copy_head(theirs, our_head):
    """Copy all weights of their head to our head, whose scales are set to 1."""
    weights, copied = theirs.model.head.state_dict(), {}
    for name in our_head.state_dict():
        is_scale = name.startswith("scales.")
        copied[name] = torch.ones(1) if is_scale else weights.pop(theirs.rename(name))
    assert not weights
    our_head.load_state_dict(copied)


def assert_same_gradients(ours, theirs, prefixes):
    """Compare the gradients of all parameters whose names in our head start with ``prefixes``."""
    for name, parameter in ours.model.head.named_parameters():
        if name.startswith(prefixes):
            their_grad = theirs.model.head.get_parameter(theirs.rename(name)).grad
            assert_close_in_norm(parameter.grad, their_grad, rtol=1e-4)


def draw_images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, *size, generator=generator) for size in IMAGE_SIZES]


def draw_boxes(counts, seed=0):
    """
    Draw ``counts[i]`` boxes for image i, with sizes for all levels.

    The largest boxes extend beyond the image. Any two boxes of an image have different areas.
    """
    generator = torch.Generator().manual_seed(seed)
    boxes_per_image = []
    for count, (height, width) in zip(counts, IMAGE_SIZES, strict=True):
        boxes, areas = torch.zeros(0, 4), []
        while len(boxes) < count:
            center = torch.rand(2, generator=generator) * torch.tensor([width, height])
            half_sides = 2 + torch.rand(2, generator=generator) ** 3 * 700
            if all(abs(area - 4 * half_sides.prod()) > 9 for area in areas):
                areas.append(4 * half_sides.prod())
                boxes = torch.cat(
                    [boxes, torch.cat([center - half_sides, center + half_sides])[None]]
                )
        boxes_per_image.append(boxes)
    return boxes_per_image


def make_boxes_about_locations(offset):
    """
    Make boxes with one positive location each, in their middle, for a radius of one stride.

    Boxes with half sides of 10 and 20 are matched on P3, those with 80 and 100 on P4.
    """
    centers = [[(3, 8, 10.25), (9, 8, 20.25), (8, 16, 80.25)], [(5, 8, 20.25), (7, 16, 100.25)]]
    return [
        torch.tensor(
            [
                [(cell + offset) * stride + sign * half for sign in (-1, 1) for _ in "xy"]
                for cell, stride, half in image
            ]
        )
        for image in centers
    ]


def assert_peers_rules_agree(boxes_per_image, offset):
    """
    Check that the rules of all projects assign the same targets to these boxes.

    No distance may be equal to a border between levels, which detectron2 and torchvision exclude.
    Any two areas must differ by more than 8 square pixels, because both projects compare
    1e8 - area in float32.
    """
    locations = torch.cat(compute_locations(FEATURE_SIZES, STRIDES, offset))[:, None]
    for boxes in boxes_per_image:
        farthest = torch.cat([locations - boxes[:, :2], boxes[:, 2:] - locations], dim=-1).amax(-1)
        assert not torch.isin(farthest, torch.tensor(BORDERS)).any()
        areas = Boxes(boxes).area().sort().values
        assert (areas.diff() > 8).all()


def add_random_classes(boxes_per_image, seed=0):
    """Add random classes to the boxes of both images, which makes annotations."""
    generator = torch.Generator().manual_seed(seed)
    instances = []
    for boxes, size in zip(boxes_per_image, IMAGE_SIZES, strict=True):
        classes = torch.randint(NUM_CLASSES, (len(boxes),), generator=generator)
        instances.append(Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes))
    return instances


def make_inputs(images, instances=None):
    """Make detectron2's input dicts."""
    if instances is None:
        return [{"image": image} for image in images]
    return [{"image": x, "instances": y} for x, y in zip(images, instances, strict=True)]


def make_batch(boxes_per_image):
    """Make the batch of both images in the form that the adapters need to assign targets."""
    return Batch.make(add_random_classes(boxes_per_image), NUM_CLASSES, PADDED_SIZE)


def find_our_matched_idxs(ours, batch):
    """Return the index in its image of the box of each location, as (N, R); -1 is background."""
    matched = ours.assign(batch).matched_idxs()
    starts = torch.tensor([0, *(len(x) for x in batch.instances[:-1])]).cumsum(0)
    return torch.where(matched >= 0, matched - starts[:, None], -1)


def predict(peer, images):
    """Compute the outputs of the head of a peer for these images."""
    model = peer.model
    features = model.backbone(model.preprocess_image(make_inputs(images)).tensor)
    return model.head(list(features.values()))


def compute_our_box_losses(ours, predictions, batch):
    """Compute the GIoU losses of the positives, and their weights, the center-ness targets."""
    targets = ours.assign(batch)
    where = targets.is_positive
    strides = torch.tensor(STRIDES)[targets.level_idxs][where]
    raw = flatten_levels(predictions.raw_ltrb).flatten(0, 1)[targets.flat_location_idxs[where]]
    ltrb = targets.ltrb[where]
    losses = box_loss(activate_ltrb(raw, strides[:, None], "relu"), ltrb, "giou")
    return losses, centerness_targets(ltrb)


def assert_close_detections(ours, boxes, scores, classes):
    """Compare detections in any order: boxes to 1e-3 pixels, scores to 1e-5, and classes."""
    assert len(ours) == len(boxes)
    rows = torch.cat([boxes, scores[:, None] * 100, classes[:, None] * 1e3], dim=1)
    our_scores, our_classes = ours.scores[:, None] * 100, ours.pred_classes[:, None] * 1e3
    our_rows = torch.cat([ours.pred_boxes.tensor, our_scores, our_classes], dim=1)
    distance, partner = torch.cdist(our_rows, rows, p=float("inf")).min(dim=1)
    assert distance.max() < 1e-3
    assert len(partner.unique()) == len(partner)


def count_common(ours, boxes, scores, classes):
    """Count the detections that are also in ours: same class, scores to 1e-4, sides to a pixel."""
    rows, our_rows = (
        torch.cat([b, 1e4 * s[:, None], 1e4 * k[:, None]], dim=1)
        for b, s, k in (
            (boxes, scores, classes),
            (ours.pred_boxes.tensor, ours.scores, ours.pred_classes),
        )
    )
    # The limit of one pixel includes rounding.
    return (torch.cdist(rows, our_rows, p=float("inf")).amin(1) < 1.01).sum().item()


def assert_close_in_norm(ours, theirs, rtol):
    assert theirs.norm() > 0
    assert (ours - theirs).norm() <= rtol * theirs.norm()
