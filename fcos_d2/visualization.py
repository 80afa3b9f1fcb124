"""Pictures of annotations and detections of a dataset, side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from .data.images import image_to_array, open_image
from .drawing import DrawableNames, Picture, draw_boxes, draw_side_by_side
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
) -> Picture:
    """
    Draw an image with its annotations, and next to it the image with its detections.

    Args:
        record (dict): A dict from ``sample_records``.
        detections (list[Detection]): The detections of this image, from
            ``evaluation_results.read_detections``.
        class_names (DrawableNames): The names of the classes.
        score_thresh (float): The minimum score of detections that are drawn.

    Returns:
        array: (H, W, 3) uint8 RGB.

    Raises:
        InputError: If the image cannot be read.
    """
    image = image_to_array(open_image(record["file_name"]), "RGB")
    annotations = record.get("annotations", [])
    names, families = class_names
    left = draw_boxes(
        image,
        _to_xyxy([x["bbox"] for x in annotations], [x["bbox_mode"] for x in annotations]),
        [-1 if x.get("iscrowd") else x["category_id"] for x in annotations],
        ["crowd" if x.get("iscrowd") else names[x["category_id"]] for x in annotations],
        "ground truth",
        families,
    )
    visible = [x for x in detections if x["score"] >= score_thresh]
    right = draw_boxes(
        image,
        _to_xyxy([x["bbox"] for x in visible], [BoxMode.XYWH_ABS] * len(visible)),
        [x["class"] for x in visible],
        [f"{names[x['class']]} {x['score']:.0%}" for x in visible],
        f"predictions above {score_thresh:.0%}",
        families,
    )
    return draw_side_by_side(left, right)


def _to_xyxy(boxes: Sequence[Sequence[float]], modes: Sequence[BoxMode]) -> NDArray[np.float64]:
    """Convert boxes with their modes to an array (M, 4) in xyxy."""
    converted = [
        BoxMode.convert(list(box), mode, BoxMode.XYXY_ABS)
        for box, mode in zip(boxes, modes, strict=True)
    ]
    return np.array(converted, dtype=np.float64).reshape(-1, 4)
