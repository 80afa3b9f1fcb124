"""Detections on image files, from a config and a checkpoint."""

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import Instances

from .checkpoint import FCOSCheckpointer
from .data.images import image_to_array, open_image
from .errors import InputError

__all__ = ["IMAGE_SUFFIXES", "Predictor", "class_names", "detections_as_dicts", "find_images"]

logger = logging.getLogger(__name__)

# Of the files that are taken from a folder, in lower case.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_images(paths: Iterable[Path]) -> list[Path]:
    """
    Image files, and those in folders (not below), by name; a file that is named twice comes once.

    Raises:
        InputError: a path that does not exist, or no image at all.
    """
    paths = list(paths)
    files: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise InputError(f"The image {path} does not exist.")
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        for file in inside:
            if file == path or (file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()):
                files.setdefault(os.path.abspath(file), file)
    if not files:
        raise InputError(
            f"There is no image in {', '.join(map(str, paths))}. Of a folder, files that end in "
            f"{', '.join(IMAGE_SUFFIXES)} are taken."
        )
    return list(files.values())


def class_names(cfg: Any, num_classes: int) -> list[str]:
    """
    Names of the K classes: those that training has written into the config, or a dataset's that
    DATASETS names; where none has K of them, "class 0", "class 1", ...
    """
    names = list(cfg.FCOS_TRAIN.CLASS_NAMES)
    if len(names) == num_classes:
        return names
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if dataset in MetadataCatalog:
            names = list(MetadataCatalog.get(dataset).get("thing_classes", []))
            if len(names) == num_classes:
                return names
    return [f"class {i}" for i in range(num_classes)]


class Predictor:
    """
    detectron2's DefaultPredictor for files: weights are read safely and must be complete, and an
    image that cannot be read is named.
    """

    def __init__(self, cfg: Any) -> None:
        """
        Args:
            cfg (CfgNode): MODEL.WEIGHTS, INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST and FORMAT are read.
        """
        self.model = build_model(cfg).eval()
        FCOSCheckpointer(self.model, complete=True).load(cfg.MODEL.WEIGHTS)
        sizes = [cfg.INPUT.MIN_SIZE_TEST] * 2
        self.resize = T.ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TEST)
        self.format = cfg.INPUT.FORMAT

    @torch.no_grad()
    def __call__(self, file: Path) -> Instances:
        """
        Returns:
            Instances: on the CPU, in pixels of the image: ``pred_boxes``, ``scores`` and
            ``pred_classes``, best first.

        Raises:
            InputError: the file is no image, or so thin that resizing leaves nothing of it.
        """
        image = image_to_array(open_image(file), self.format)
        height, width = image.shape[:2]
        transform = self.resize.get_transform(image)
        if not (getattr(transform, "new_h", height) and getattr(transform, "new_w", width)):
            raise InputError(
                f"The image {file} of {width} x {height} pixels is too thin: resized to "
                f"INPUT.MAX_SIZE_TEST = {self.resize.max_size}, its short side has 0 pixels."
            )
        resized = transform.apply_image(image)
        tensor = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        (output,) = self.model([{"image": tensor, "height": height, "width": width}])
        return output["instances"].to("cpu")


def detections_as_dicts(
    file: Path, instances: Instances, names: list[str]
) -> Iterator[dict[str, Any]]:
    """One JSON-ready dict a detection: file, class, score, and bbox as [x, y, width, height]."""
    boxes = instances.pred_boxes.tensor.tolist()
    for box, score, label in zip(
        boxes, instances.scores.tolist(), instances.pred_classes.tolist(), strict=True
    ):
        x1, y1, x2, y2 = (round(x, 2) for x in box)
        yield {
            "file": str(file),
            "class": names[label],
            "score": round(score, 4),
            "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        }
