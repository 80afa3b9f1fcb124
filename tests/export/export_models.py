"""Tiny models and images for the tests of exported files."""

import torch
from tiny import detector

from fcos_d2.export import ExportSettings, export_model
from fcos_d2.image_preparation import ImagePreparation

NAMES = ["ant", "bee", "cat", "dog", "eel"]


def noise(height, width, seed=0):
    """Return an image (3, H, W) in which ``selective_detector`` finds many objects."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)


def preparation(min_size=0, max_size=1333):
    """Return the preparation of BGR images."""
    return ImagePreparation("BGR", 3, 65535, min_size, max_size)


def selective_detector(*opts):
    """Build a detector that finds nothing in a plain image, and over 100 objects in noise."""
    model = detector({"TEST.DETECTIONS_PER_IMAGE": 150}, *opts)
    plain = torch.full((3, 256, 320), 90, dtype=torch.uint8)
    with torch.no_grad():
        maps = model.backbone(model.preprocess_image([{"image": plain}]).tensor)
        logits = model.head([maps[name] for name in model.head_in_features]).cls_logits
    highest = max(float(x.max()) for x in logits)
    model.postprocessor.score_thresh_test = float(torch.tensor(highest + 1e-3).sigmoid())
    return model


def export(model, file, file_format=None, images=None, **settings):
    """Export a model of five classes, compared on noise."""
    file_format = file_format or {".onnx": "onnx", ".pt2": "pt2"}[file.suffix]
    images = images or [noise(130, 170).permute(1, 2, 0).numpy()]
    return export_model(
        model, file, ExportSettings(file_format, **settings), preparation(), NAMES, images
    )
