"""Converted files of full-size FCOS models of torchvision and detectron2 with random weights."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import batched_nms
from detectron2.model_zoo import get_config_file
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from parity_models import assert_close_detections, count_common
from torch import nn
from torchvision.models.detection import fcos_resnet50_fpn

from fcos_d2.checkpoint import load_any
from fcos_d2.cli import main
from fcos_d2.modeling.levels import flatten_levels

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"
# The shorter sides are 128, so that torchvision does not resize. Both images are padded to
# 256 x 256, a multiple of 128.
IMAGE_SIZES = [(128, 256), (256, 128)]
NUM_CLASSES = 7


def draw_images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8)
        for size in IMAGE_SIZES
    ]


def draw_weights(model, predictors):
    """Draw different weights and statistics of all norms, and predictors that detect some boxes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            parameter = name.rpartition(".")[2]
            if value.dim() == 1 and value.is_floating_point() and "head" not in name:
                low, high = {
                    "running_mean": (-0.1, 0.1),
                    "running_var": (0.5, 1.5),
                    "weight": (0.2, 0.6),
                    "bias": (-0.1, 0.1),
                }[parameter]
                value.copy_(low + (high - low) * torch.rand(value.shape, generator=generator))
        cls_logits, bbox_pred, centerness = predictors
        cls_logits.weight.normal_(std=0.03, generator=generator)
        cls_logits.bias.fill_(-3)
        bbox_pred.weight.normal_(std=0.02, generator=generator)
        bbox_pred.bias.fill_(2)
        centerness.weight.normal_(std=0.03, generator=generator)
        assert any(isinstance(x, nn.GroupNorm) for x in model.modules())
    return model.eval()


@pytest.fixture(scope="module")
def torchvision_model():
    torch.manual_seed(0)
    model = fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES, min_size=128, max_size=256
    )
    head = model.head
    return draw_weights(
        model,
        [
            head.classification_head.cls_logits,
            head.regression_head.bbox_reg,
            head.regression_head.bbox_ctrness,
        ],
    )


@pytest.fixture(scope="module")
def detectron2_model():
    torch.manual_seed(0)
    lazy = LazyConfig.load(get_config_file("COCO-Detection/fcos_R_50_FPN_1x.py")).model
    lazy.num_classes = NUM_CLASSES
    model = instantiate(lazy)
    return draw_weights(model, [model.head.cls_score, model.head.bbox_pred, model.head.ctrness])


def convert(path, saved):
    """Save the content of a file, convert it, and return the conversion and our model."""
    torch.save(saved, path)
    converted = load_any(path)
    cfg = converted.cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.FCOS.CHANNELS_LAST = False  # The rounding is then that of the other projects.
    ours = build_model(cfg).eval()
    ours.load_state_dict(converted.weights)
    return converted, ours


def our_maps(model, images):
    inputs = [{"image": image} for image in images]
    return model.head(list(model.backbone(model.preprocess_image(inputs).tensor).values()))


@torch.no_grad()
def test_a_converted_file_of_torchvision_computes_the_same(torchvision_model, tmp_path):
    converted, ours = convert(tmp_path / "x.pth", torchvision_model.state_dict())
    assert converted.source == "torchvision"
    images = draw_images()
    scaled = [image / 255 for image in images]
    batch, _ = torchvision_model.transform(scaled)
    assert batch.tensors.shape[2:] == (256, 256)
    outputs = torchvision_model.head(list(torchvision_model.backbone(batch.tensors).values()))
    cls_logits, ltrb, centerness = map(flatten_levels, our_maps(ours, images)[:3])
    for our_map, name in (
        (cls_logits, "cls_logits"),
        (ltrb.relu(), "bbox_regression"),
        (centerness, "bbox_ctrness"),
    ):
        assert outputs[name].std() > 0.1  # not constant
        torch.testing.assert_close(our_map, outputs[name], rtol=0, atol=1e-5)
    # Otherwise the best boxes of torchvision include empty ones, which it keeps after clipping.
    torchvision_model.detections_per_img = ours.postprocessor.detections_per_image = 10_000
    our_results = [x["instances"] for x in ours([{"image": image} for image in images])]
    for our_result, their_result in zip(our_results, torchvision_model(scaled), strict=True):
        boxes = their_result["boxes"]
        has_extent = (boxes[:, 2:] > boxes[:, :2]).all(1)
        assert has_extent.sum() > 100
        assert_close_detections(
            our_result, *(their_result[x][has_extent] for x in ("boxes", "scores", "labels"))
        )


def detect_with_clipping_after_nms(model, predictions, image, image_size):
    """Detect in one image with our rules, except that boxes are clipped after NMS."""
    candidates = model.postprocessor.candidates(predictions)
    is_here = candidates.image_idxs == image
    boxes, scores, classes = (
        x[is_here] for x in (candidates.boxes, candidates.scores, candidates.classes)
    )
    keep = batched_nms(boxes, scores, classes, model.postprocessor.nms_thresh_test)[:100]
    assert len(keep) < 0.9 * len(boxes)  # NMS removes some
    result = Instances(
        image_size, pred_boxes=Boxes(boxes[keep]), scores=scores[keep], pred_classes=classes[keep]
    )
    result.pred_boxes.clip(image_size)
    return result[result.pred_boxes.nonempty()]


@torch.no_grad()
def test_a_converted_file_of_detectron2_computes_the_same(detectron2_model, tmp_path):
    converted, ours = convert(tmp_path / "x.pth", {"model": detectron2_model.state_dict()})
    assert converted.source == "detectron2"
    inputs = [{"image": image} for image in draw_images()]
    maps = detectron2_model.backbone(detectron2_model.preprocess_image(inputs).tensor)
    their_predictions = detectron2_model.head(list(maps.values()))
    predictions = our_maps(ours, draw_images())
    for our_levels, their_levels in zip(predictions[:3], their_predictions, strict=True):
        assert flatten_levels(their_levels).std() > 0.1  # not constant
        for our_map, their_map in zip(our_levels, their_levels, strict=True):
            torch.testing.assert_close(our_map, their_map, rtol=0, atol=1e-5)
    total = num_common = 0
    for image, result in enumerate(detectron2_model(inputs)):
        their_result = result["instances"]
        detections = (
            their_result.pred_boxes.tensor,
            their_result.scores,
            their_result.pred_classes,
        )
        assert len(their_result) > 50
        total += len(their_result)
        num_common += count_common(ours(inputs)[image]["instances"], *detections)
        assert_close_detections(
            detect_with_clipping_after_nms(ours, predictions, image, IMAGE_SIZES[image]),
            *detections,
        )
    assert f"| {num_common} of {total} |" in DOCUMENTATION.read_text()


@torch.no_grad()
def test_converting_to_torchvision_restores_the_file_of_torchvision(torchvision_model, tmp_path):
    file, config = tmp_path / "ours.pth", tmp_path / "ours.yaml"
    torch.save(torchvision_model.state_dict(), tmp_path / "x.pth")
    main(["convert", str(tmp_path / "x.pth"), "--output", str(file)])
    flags = ["--to", "torchvision", "--config-file", str(config)]
    main(["convert", str(file), *flags, "--output", str(tmp_path / "back.pth")])
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(back.keys() ^ torchvision_model.state_dict().keys()) == []
    assert all(torch.equal(back[k], x) for k, x in torchvision_model.state_dict().items())
    torchvision_model.load_state_dict(back)
