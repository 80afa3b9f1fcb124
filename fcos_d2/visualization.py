"""Pictures of annotations and detections of a dataset, side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from .data.coco import decode_segmentation
from .data.images import image_to_array, open_image
from .drawing import (
    DrawableNames,
    DrawnObjects,
    Picture,
    Skeleton,
    draw_objects,
    draw_side_by_side,
    scores_to_visibility,
)
from .errors import InputError
from .evaluation_results import Detection, load_dataset

__all__ = ["draw_comparison", "sample_records"]


def sample_records(dataset_name: str, num_images: int) -> list[dict[str, Any]]:
    """
    Select dicts of a registered dataset, evenly spread over it.

    Args:
        dataset_name (str): The name of the dataset.
        num_images (int): The maximum number of dicts.

    Raises:
        InputError: If the dataset is not registered, cannot be loaded, or has no class names.
    """
    dataset = load_dataset(dataset_name)
    return dataset[:: max(1, len(dataset) // num_images)][:num_images]


def draw_comparison(
    record: Mapping[str, Any],
    detections: Sequence[Detection],
    class_names: DrawableNames,
    score_thresh: float,
    skeleton: Skeleton,
) -> Picture:
    """
    Draw an image with its annotations, and next to it the image with its detections.

    Args:
        record (dict): A dict from ``sample_records``.
        detections (list[Detection]): The detections of this image, from
            ``evaluation_results.read_detections``.
        class_names (DrawableNames): The names of the classes.
        score_thresh (float): The minimum score of detections that are drawn.
        skeleton (Skeleton): The lines between keypoints.

    Returns:
        array: (H, W, 3) uint8 RGB.

    Raises:
        InputError: If the image or a mask cannot be read.
    """
    image = image_to_array(open_image(record["file_name"]), "RGB")
    names, families = class_names
    truth = _annotated_objects(record, image.shape[:2], names, skeleton)
    visible = [x for x in detections if x["score"] >= score_thresh]
    found = _detected_objects(record, visible, image.shape[:2], names, skeleton)
    left = draw_objects(image, truth, "ground truth", families)
    right = draw_objects(image, found, f"predictions above {score_thresh:.0%}", families)
    return draw_side_by_side(left, right)


def _annotated_objects(
    record: Mapping[str, Any], size: tuple[int, ...], names: Sequence[str], skeleton: Skeleton
) -> DrawnObjects:
    """Return the annotations of an image (height, width) as objects."""
    annotations = record.get("annotations", [])
    return DrawnObjects(
        _to_xyxy([x["bbox"] for x in annotations], [x["bbox_mode"] for x in annotations]),
        [-1 if x.get("iscrowd") else x["category_id"] for x in annotations],
        ["crowd" if x.get("iscrowd") else names[x["category_id"]] for x in annotations],
        [_read_mask(x, size, f"{record['file_name']}: an annotation") for x in annotations],
        [np.reshape(x["keypoints"], (-1, 3)) if "keypoints" in x else None for x in annotations],
        skeleton,
    )


def _detected_objects(
    record: Mapping[str, Any],
    detections: Sequence[Detection],
    size: tuple[int, ...],
    names: Sequence[str],
    skeleton: Skeleton,
) -> DrawnObjects:
    """Return the detections of an image (height, width) as objects."""
    return DrawnObjects(
        _to_xyxy([x["bbox"] for x in detections], [BoxMode.XYWH_ABS] * len(detections)),
        [x["class"] for x in detections],
        [names[x["class"]] for x in detections],
        [
            _read_mask(x, size, f"{record['file_name']}: the detection with score = {x['score']}")
            for x in detections
        ],
        [_detected_keypoints(x["keypoints"]) if "keypoints" in x else None for x in detections],
        skeleton,
        [x["score"] for x in detections],
    )


def _detected_keypoints(values: Sequence[float]) -> NDArray[np.float64]:
    """Return keypoints of results as an array (P, 3) with positions in the image and visibility."""
    keypoints = np.reshape(values, (-1, 3)) + np.array([0.5, 0.5, 0])  # COCO's are pixel indices
    return scores_to_visibility(keypoints)


def _read_mask(
    owner: Mapping[str, Any] | Detection, size: tuple[int, ...], name: str
) -> NDArray[np.bool_] | None:
    """Return the mask of an annotation or a detection; None if it has no segmentation."""
    segmentation = owner.get("segmentation")
    if segmentation is None or len(segmentation) == 0:
        return None
    mask = decode_segmentation(segmentation, size[0], size[1])
    if mask is None:
        raise InputError(
            f"{name} has a mask that is damaged or does not have the size of the image, "
            f"{size[1]} x {size[0]} pixels."
        )
    return mask


def _to_xyxy(boxes: Sequence[Sequence[float]], modes: Sequence[BoxMode]) -> NDArray[np.float64]:
    """Convert boxes with their modes to an array (M, 4) in xyxy."""
    converted = [
        BoxMode.convert(list(box), mode, BoxMode.XYXY_ABS)
        for box, mode in zip(boxes, modes, strict=True)
    ]
    return np.array(converted, dtype=np.float64).reshape(-1, 4)
