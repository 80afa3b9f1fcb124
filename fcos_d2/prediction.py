"""Detections on image files, from a config and a checkpoint."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from detectron2.structures import Instances

from .checkpoint import FCOSCheckpointer
from .config import resolve_num_classes
from .data.coco_checks import read_coco_json
from .data.coco_datasets import parse_dataset
from .engine.preparation import own_dataset_texts
from .errors import InputError

__all__ = ["Predictor", "class_names", "detections_as_dicts", "find_images"]

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def find_images(paths: Iterable[Path]) -> list[Path]:
    """
    Image files, and those in folders (not below), by name.

    Raises:
        InputError: a path that does not exist, or no image at all.
    """
    files = []
    for path in paths:
        if not path.exists():
            raise InputError(f"The image {path} does not exist.")
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        files += [x for x in inside if x.suffix.lower() in _SUFFIXES or not path.is_dir()]
    if not files:
        raise InputError(f"There is no image in {', '.join(map(str, paths))}.")
    return files


def class_names(cfg: Any) -> list[str]:
    """
    Names of the K classes: from the metadata of DATASETS, or from the annotation file that
    FCOS_TRAIN.DATASETS says they are from; where that is not at hand, "class 0", "class 1", ...
    """
    files = {name: parse_dataset(text)[1] for name, text in own_dataset_texts(cfg).items()}
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name in files and files[name].is_file():
            categories = read_coco_json(files[name])["categories"]
            return [x["name"] for x in sorted(categories, key=lambda x: x["id"])]
        names = MetadataCatalog.get(name).get("thing_classes") if name in MetadataCatalog else None
        if names is not None:
            return list(names)
    return [f"class {i}" for i in range(resolve_num_classes(cfg))]


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
            InputError: the file is no image.
        """
        try:
            image = read_image(str(file), format=self.format)
        # A damaged file can make the readers raise anything.
        except Exception as error:
            raise InputError(
                f"The image {file} cannot be read: {type(error).__name__}: {error}"
            ) from error
        height, width = image.shape[:2]
        resized = self.resize.get_transform(image).apply_image(image)
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
