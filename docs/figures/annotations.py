"""Load the boxes of a drawn scene, of shapes_train, or of a COCO-format file."""

import gzip
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray
from torch import Tensor

from fcos_d2 import add_fcos_config, add_train_config, get_config_file
from fcos_d2.data.shapes.annotation import annotate_scene
from fcos_d2.data.shapes.scene import draw_scene

__all__ = [
    "AnnotatedImage",
    "demo_cfg",
    "demo_levels",
    "feature_sizes",
    "load_coco",
    "load_scene",
    "load_shapes_train",
    "to_instances",
]


class AnnotatedImage(NamedTuple):
    """The size and the boxes of an image; crowd boxes are dropped, as in detectron2's training."""

    size: tuple[int, int]  # height, width
    boxes: Tensor  # (M, 4) float32 xyxy
    classes: Tensor  # (M,) int64


def demo_cfg() -> CfgNode:
    """Load the config that `make demo` trains."""
    cfg = get_cfg()
    add_fcos_config(cfg)
    add_train_config(cfg)
    cfg.merge_from_file(get_config_file("shapes/fcos_shapes_demo.yaml"))
    return cfg


def demo_levels() -> tuple[list[int], list[float]]:
    """Return the strides of that config's levels and the borders between them."""
    fcos = demo_cfg().MODEL.FCOS
    return [2 ** int(name[1:]) for name in fcos.IN_FEATURES], fcos.SIZES_OF_INTEREST


def feature_sizes(size: tuple[int, int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return (Hi, Wi) of each level for an image that is padded to the coarsest stride."""
    height, width = (-(-side // strides[-1]) * strides[-1] for side in size)
    return [(height // stride, width // stride) for stride in strides]


def to_instances(size: tuple[int, int], boxes: Tensor, classes: Tensor) -> Instances:
    """Make the ground truth of one image in detectron2's form."""
    return Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes)


def load_scene(split: str, index: int) -> tuple[NDArray[np.uint8], AnnotatedImage]:
    """Draw a scene and return its image (H, W, 3) and its boxes."""
    scene = draw_scene(split, index)
    objects = [x for x in annotate_scene(scene) if not x["iscrowd"]]
    image_size = scene.image.shape[:2]
    boxes, classes = [x["bbox"] for x in objects], [x["category_id"] - 1 for x in objects]
    return scene.image, _annotated(image_size, boxes, classes)


def load_shapes_train() -> list[AnnotatedImage]:
    """Load all of shapes_train; the dataset is drawn if it does not exist yet."""
    images = []
    for record in DatasetCatalog.get("shapes_train"):
        objects = [x for x in record["annotations"] if not x["iscrowd"]]
        images.append(
            _annotated(
                (record["height"], record["width"]),
                [x["bbox"] for x in objects],
                [x["category_id"] for x in objects],
            )
        )
    return images


def load_coco(path: Path, short_side: int = 800, long_side: int = 1333) -> list[AnnotatedImage]:
    """Load a COCO-format file (.json or .json.gz), with images resized as in training."""
    content = path.read_bytes()
    data = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    objects = defaultdict(list)
    for annotation in data["annotations"]:
        width, height = annotation["bbox"][2:]
        if not annotation["iscrowd"] and width > 0 and height > 0:
            objects[annotation["image_id"]].append(annotation)
    images = []
    for image in data["images"]:
        size = image["height"], image["width"]
        factor = min(short_side / min(size), long_side / max(size))
        height, width = (int(side * factor + 0.5) for side in size)
        scale = np.array([width / size[1], height / size[0]] * 2)
        annotations = objects[image["id"]]
        boxes = [(np.array(x["bbox"]) * scale).tolist() for x in annotations]
        classes = [x["category_id"] for x in annotations]
        images.append(_annotated((height, width), boxes, classes))
    return images


def _annotated(
    size: tuple[int, int], xywh: Sequence[Sequence[float]], classes: Sequence[int]
) -> AnnotatedImage:
    """Make an ``AnnotatedImage`` of boxes as lists of x, y, width, height."""
    boxes = torch.tensor(xywh, dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return AnnotatedImage(size, boxes, torch.tensor(classes, dtype=torch.int64))
