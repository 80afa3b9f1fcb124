"""Detection on images with a trained model, from a config and a checkpoint."""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import ProposalNetwork
from detectron2.structures import Instances
from PIL import Image

from .checkpoint import FCOSCheckpointer
from .data.images import WHITE_POINT
from .data.keypoints import connection_rules_of, keypoint_names_of
from .errors import InputError
from .image_preparation import AnyImage, ImagePreparation
from .modeling import build_model
from .test_time_augmentation import build_tta_model

__all__ = [
    "AnyImage",
    "ImagePredictor",
    "Predictor",
    "class_names",
    "detections_as_dicts",
    "keypoint_metadata",
]


def class_names(cfg: CfgNode, num_classes: int) -> list[str]:
    """
    Return the names of the classes.

    They come from FCOS_TRAIN.CLASS_NAMES, which training writes into the config, or from a dataset
    in DATASETS. If none of these has K names, they are "class 0", "class 1", ...

    Args:
        cfg (CfgNode): The config.
        num_classes (int): The number of classes, K.
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


def keypoint_metadata(cfg: CfgNode) -> tuple[list[str], list[Any]]:
    """
    Return the names of the keypoints and the rules of the lines between them.

    They come from FCOS_TRAIN.KEYPOINT_NAMES and FCOS_TRAIN.KEYPOINT_SKELETON, which training writes
    into the config, or from a dataset in DATASETS.

    Args:
        cfg (CfgNode): The config.

    Returns:
        tuple[list, list]: ``keypoint_names`` and ``keypoint_connection_rules`` as in detectron2's
        metadata. Both are empty if none of these has names.
    """
    if cfg.FCOS_TRAIN.KEYPOINT_NAMES:
        return list(cfg.FCOS_TRAIN.KEYPOINT_NAMES), list(cfg.FCOS_TRAIN.KEYPOINT_SKELETON)
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if dataset in MetadataCatalog and (names := keypoint_names_of(dataset)):
            return names, connection_rules_of(dataset)
    return [], []


class ImagePredictor:
    """
    A detector for image files and arrays.

    Args:
        detector (Callable): Returns {"instances": Instances} for each of a list of input dicts.
        preparation (ImagePreparation): Makes these dicts.
    """

    def __init__(
        self,
        detector: Callable[[list[dict[str, Any]]], list[dict[str, Instances]]],
        preparation: ImagePreparation,
    ) -> None:
        self.detector = detector
        self.preparation = preparation

    def __call__(self, image: AnyImage) -> Instances:
        """
        Detect the objects of one image.

        Args:
            image (AnyImage): A path; an image of PIL (see ``data.images.open_image``); or an array
                (H, W, C) in uint8 with the channels of INPUT.FORMAT.

        Returns:
            Instances: ``pred_boxes`` in pixels of the image, ``scores`` and ``pred_classes``, on
            the CPU, from the highest to the lowest score.

        Raises:
            InputError: See ``ImagePreparation``.
        """
        return next(self.predict_all([image]))

    def predict_all(self, images: Iterable[AnyImage], batch_size: int = 1) -> Iterator[Instances]:
        """
        Detect the objects of many images, with at most ``batch_size`` images in memory.

        The images of a batch are padded to the same size, so scores may differ slightly from those
        of ``__call__``.

        Args:
            images (Iterable[AnyImage]): Images as in ``__call__``.
            batch_size (int): The number of images in a batch.

        Yields:
            Instances: The detections of each image, in the same order.

        Raises:
            InputError: See ``__call__``. No more images are read after the error.
        """
        if isinstance(images, (str, os.PathLike, Image.Image)):
            raise InputError("images must be an iterable, such as a list of paths.", key="images")
        if batch_size < 1:
            text = f"batch_size = {batch_size} must be at least 1."
            raise InputError(text, key="batch_size", value=batch_size)
        remaining = iter(images)
        while batch := [self.preparation(image) for image in islice(remaining, batch_size)]:
            with torch.no_grad():
                outputs = self.detector(batch)
            for output in outputs:
                yield output["instances"].to("cpu")


class Predictor(ImagePredictor):
    """
    A trained detector for image files and arrays.

    The differences from detectron2's DefaultPredictor are: weights are read without executing code
    from a pickle and must be complete, arrays have the channels of INPUT.FORMAT, and the result is
    Instances instead of a dict.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """
        Build the model of a config and load its weights.

        Args:
            cfg (CfgNode): The config. Apart from the model's keys, MODEL.WEIGHTS,
                INPUT.MIN_SIZE_TEST, INPUT.MAX_SIZE_TEST, INPUT.FORMAT,
                FCOS_TRAIN.WHITE_POINT_16_BIT and TEST.AUG are read. With TEST.AUG.ENABLED,
                test-time augmentation determines the sizes of images.

        Raises:
            InputError: If the weights cannot be read, or do not fit the model, or if the model has
                no test-time augmentation or detects no objects.
        """
        self.model = build_model(cfg).eval()
        if isinstance(self.model, ProposalNetwork):
            key, name = "MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE
            text = f"{key} = {name!r} proposes boxes, but does not detect objects."
            raise InputError(text, key=key, value=name)
        FCOSCheckpointer(self.model, complete=True).load(cfg.MODEL.WEIGHTS)
        augments = cfg.TEST.AUG.ENABLED
        preparation = ImagePreparation(
            cfg.INPUT.FORMAT,
            len(self.model.get_buffer("pixel_mean")),
            # Configs of other projects may not have FCOS_TRAIN.
            cfg.get("FCOS_TRAIN", {}).get("WHITE_POINT_16_BIT", WHITE_POINT),
            0 if augments else cfg.INPUT.MIN_SIZE_TEST,
            cfg.INPUT.MAX_SIZE_TEST,
        )
        super().__init__(build_tta_model(cfg, self.model) if augments else self.model, preparation)


def detections_as_dicts(
    file: Path, instances: Instances, names: list[str]
) -> Iterator[dict[str, Any]]:
    """
    Yield a dict for JSON for each detection.

    Masks and keypoints are as in ``coco_instances_results.json`` of detectron2's COCOEvaluator.

    Args:
        file (Path): The image.
        instances (Instances): Its detections.
        names (list[str]): The name of each class.

    Yields:
        dict: ``file``, ``class`` (the name), ``score`` and ``bbox`` ([x, y, width, height] in
        pixels); ``segmentation`` (an RLE, compressed) if the model predicts masks; ``keypoints``
        ([x1, y1, score1, x2, ...], where the center of the first pixel is 0, 0) if it predicts
        keypoints.
    """
    boxes = instances.pred_boxes.tensor.tolist()
    has_masks, has_keypoints = instances.has("pred_masks"), instances.has("pred_keypoints")
    masks = _encode_masks(instances.pred_masks) if has_masks else [None] * len(boxes)
    keypoints = instances.pred_keypoints.tolist() if has_keypoints else [None] * len(boxes)
    for box, score, label, mask, points in zip(
        boxes,
        instances.scores.tolist(),
        instances.pred_classes.tolist(),
        masks,
        keypoints,
        strict=True,
    ):
        x1, y1, x2, y2 = (round(x, 2) for x in box)
        detection = {
            "file": str(file),
            "class": names[label],
            "score": round(score, 4),
            "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        }
        if mask is not None:
            detection["segmentation"] = mask
        if points is not None:
            # COCO's keypoints are pixel indices; those of a model are positions in the image.
            detection["keypoints"] = [
                value
                for x, y, point_score in points
                for value in (round(x - 0.5, 2), round(y - 0.5, 2), round(point_score, 4))
            ]
        yield detection


def _encode_masks(masks: torch.Tensor) -> list[dict[str, Any]]:
    """Encode masks (D, H, W) as compressed run lengths."""
    from pycocotools import mask as mask_util

    arrays = (np.array(x, dtype=np.uint8, order="F") for x in masks.numpy())
    encoded = map(mask_util.encode, arrays)
    return [{"size": x["size"], "counts": x["counts"].decode("ascii")} for x in encoded]
