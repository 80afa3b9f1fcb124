"""
What the parity tests share: one tiny backbone for everybody's FCOS, heads with the same weights,
boxes whose assignment is beyond dispute, and how results are compared.
"""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, Instances
from torch import nn

from fcos_d2 import (
    FCOS,
    FCOSAssigner,
    FCOSDenseHead,
    FCOSHead,
    FCOSLosses,
    FCOSPostProcessor,
    Levels,
)
from fcos_d2.modeling.levels import activate_ltrb, compute_locations, flatten_levels
from fcos_d2.modeling.losses.box import box_loss
from fcos_d2.modeling.losses.quality import centerness_targets

STRIDES = [8, 16, 32, 64, 128]
BORDERS = [64, 128, 256, 512]
CHANNELS = 64  # two a group: with one, GN would cancel the biases of the convolutions
NUM_CONVS = 2
NUM_CLASSES = 5

# Two sizes, shorter side 256: torchvision's min_size. Padded to multiples of 128: 384 x 384.
IMAGE_SIZES = [(330, 256), (256, 300)]
FEATURE_SIZES = [(384 // stride, 384 // stride) for stride in STRIDES]
NUM_LOCATIONS = sum(height * width for height, width in FEATURE_SIZES)


class SampledPyramid(Backbone):
    """Every stride-th pixel through one convolution: five levels, next to no time."""

    out_channels = CHANNELS  # asked for by torchvision
    size_divisibility = 128

    def __init__(self):
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


def draw_weights(head, box_predictor, seed=0):
    """Weights that spread the outputs, all biases and norms included, and boxes with an extent."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        for module in head.modules():
            if isinstance(module, nn.GroupNorm):
                module.weight.add_(1)
        box_predictor.bias.add_(1.5)


def make_constant(predictor, value):
    """Whatever the features, the predictor says ``value``."""
    nn.init.zeros_(predictor.weight)
    nn.init.constant_(predictor.bias, value)


def renamed(state, names):
    """The entries of ``state`` under our head's names; ``names`` maps the peer's prefixes."""
    result = {}
    for key, value in state.items():
        (prefix,) = [name for name in names if key.startswith(f"{name}.")]
        result[names[prefix] + key[len(prefix) :]] = value
    return result


def build_ours(backbone, their_head, names, location_offset, radius=1.5, **kwargs):
    """Our FCOS on the same backbone, with the weights of their head; none left over or missing."""
    head = FCOSHead(
        input_shape=list(backbone.output_shape().values()),
        num_classes=NUM_CLASSES,
        num_cls_convs=NUM_CONVS,
        num_box_convs=NUM_CONVS,
    )
    scales = {f"scales.{level}.scale": torch.ones(1) for level in range(len(STRIDES))}
    head.load_state_dict(renamed(their_head.state_dict(), names) | scales)
    levels = Levels(STRIDES, location_offset)
    dense_head = FCOSDenseHead(
        head=head,
        levels=levels,
        assigner=FCOSAssigner(levels=levels, center_sampling_radius=radius),
        losses=FCOSLosses(levels=levels),
        postprocessor=FCOSPostProcessor(levels=levels, **kwargs),
    )
    return FCOS(
        backbone=backbone,
        dense_head=dense_head,
        num_classes=NUM_CLASSES,
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[1.0, 1.0, 1.0],
    )


def draw_images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, *size, generator=generator) for size in IMAGE_SIZES]


def draw_boxes(counts, seed=0):
    """
    So many boxes for each image, of sizes for all levels, so that the largest stick out of the
    image; no two of an image have nearly the same area.
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


def boxes_about_locations(offset):
    """
    Boxes that, at a sampling radius of one stride, have one positive each: the location in their
    middle. Half sides of 10 and 20 are P3's; 80 and 100 are P4's.
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
    The premise of equal targets: no distance is one of the borders, which detectron2 and
    torchvision exclude; no two areas are within 8 square pixels, which 1e8 - area cannot tell
    apart in float32.
    """
    locations = torch.cat(compute_locations(FEATURE_SIZES, STRIDES, offset))[:, None]
    for boxes in boxes_per_image:
        farthest = torch.cat([locations - boxes[:, :2], boxes[:, 2:] - locations], dim=-1).amax(-1)
        assert not torch.isin(farthest, torch.tensor(BORDERS)).any()
        areas = Boxes(boxes).area().sort().values
        assert (areas.diff() > 8).all()


def make_instances(boxes_per_image, seed=0):
    """With classes at random."""
    generator = torch.Generator().manual_seed(seed)
    instances = []
    for boxes, size in zip(boxes_per_image, IMAGE_SIZES, strict=True):
        classes = torch.randint(NUM_CLASSES, (len(boxes),), generator=generator)
        instances.append(Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes))
    return instances


def make_inputs(images, instances=None):
    """detectron2's input dicts."""
    if instances is None:
        return [{"image": image} for image in images]
    return [{"image": x, "instances": y} for x, y in zip(images, instances, strict=True)]


def our_matched_idxs(model, instances):
    """(N, R) index of the box among those of its image, -1 = background."""
    targets = model.assigner(instances, FEATURE_SIZES)
    matched = targets.matched_idxs()
    starts = torch.tensor([0, *(len(x) for x in instances[:-1])]).cumsum(0)
    return torch.where(matched >= 0, matched - starts[:, None], -1)


def predict(model, images):
    """Raw maps of our head for these images."""
    features = model.backbone(model.preprocess_image(make_inputs(images)).tensor)
    return model.head(list(features.values()))


def our_box_losses(model, predictions, instances):
    """GIoU losses of the positives, and their centre-ness targets, which weight them."""
    targets = model.assigner(instances, FEATURE_SIZES)
    where = targets.is_positive
    strides = torch.tensor(STRIDES)[targets.level_idxs][where]
    raw = flatten_levels(predictions.raw_ltrb).flatten(0, 1)[targets.flat_location_idxs[where]]
    ltrb = targets.ltrb[where]
    losses = box_loss(activate_ltrb(raw, strides[:, None], "relu"), ltrb, "giou")
    return losses, centerness_targets(ltrb)


def assert_same_detections(ours, boxes, scores, classes):
    """Boxes to 1e-3 pixels, scores to 1e-5, the same classes; order does not count."""
    assert len(ours) == len(boxes)
    rows = torch.cat([boxes, scores[:, None] * 100, classes[:, None] * 1e3], dim=1)
    our_scores, our_classes = ours.scores[:, None] * 100, ours.pred_classes[:, None] * 1e3
    our_rows = torch.cat([ours.pred_boxes.tensor, our_scores, our_classes], dim=1)
    distance, partner = torch.cdist(our_rows, rows, p=float("inf")).min(dim=1)
    assert distance.max() < 1e-3
    assert len(partner.unique()) == len(partner)


def assert_close_in_norm(ours, theirs, rtol):
    assert theirs.norm() > 0
    assert (ours - theirs).norm() <= rtol * theirs.norm()
