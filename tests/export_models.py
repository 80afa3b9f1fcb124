"""Tiny models and images for the tests of exported files."""

import torch
from tiny import detector

from fcos_d2.data.images import WHITE_POINT
from fcos_d2.export import ExportSettings, export_model
from fcos_d2.image_preparation import ImagePreparation

NAMES = ["ant", "bee", "cat", "dog", "eel"]
# A network with few operations, because tracing and compiling take seconds for each of them.
SMALL = {
    "MODEL.BACKBONE.NAME": "build_fcos_timm_fpn_backbone",
    "MODEL.TIMM.NAME": "test_resnet",
    "MODEL.FPN.IN_FEATURES": ["res4", "res5"],
    "MODEL.FCOS.TOP_LEVELS": 1,
    "MODEL.FCOS.IN_FEATURES": ["p4", "p5", "p6"],
    "MODEL.FCOS.SIZES_OF_INTEREST": [64, 128],
}
PLAIN = torch.full((3, 192, 256), 110, dtype=torch.uint8)


def noise(height, width, seed=0):
    """Return an image (3, H, W), in which ``selective_detector`` finds many objects."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)


def to_array(image):
    """Convert an image (C, H, W) to an array (H, W, C)."""
    return image.permute(1, 2, 0).numpy()


def preparation(min_size=0, max_size=1333):
    """Return the preparation of BGR images; by default, they keep their size."""
    return ImagePreparation("BGR", 3, WHITE_POINT, min_size, max_size)


def selective_detector(*opts):
    """
    Build a random detector that finds nothing in PLAIN, and over 100 objects in noise of its size.

    The pixels of PLAIN are the pixel mean, so all maps are 0, and all class scores PRIOR_PROB.
    """
    mean = {"MODEL.PIXEL_MEAN": [110.0] * 3, "MODEL.FCOS.SCORE_THRESH_TEST": 0.3}
    return detector(SMALL, mean, {"TEST.DETECTIONS_PER_IMAGE": 150}, *opts)


def export(model, file, file_format=None, images=None, class_names=NAMES, **settings):
    """Export a model, by default of five classes and compared on noise."""
    file_format = file_format or {".onnx": "onnx", ".pt2": "pt2"}[file.suffix]
    images = images or [to_array(noise(130, 170))]
    settings = ExportSettings(file_format, **settings)
    return export_model(model, file, settings, preparation(), class_names, images)
