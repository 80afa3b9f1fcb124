"""Pictures of annotations and detections, drawn with detectron2's Visualizer."""

import colorsys
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode
from detectron2.utils.visualizer import Visualizer
from numpy.typing import NDArray
from PIL import Image

__all__ = ["draw_boxes", "draw_comparisons", "draw_side_by_side"]

Picture = NDArray[np.uint8]

_MIN_SIDE = 640  # smaller images are enlarged, or the labels would hide them
_GAP = 12  # pixels between two pictures
_CROWD_COLOR = (0.6, 0.6, 0.6)


def draw_boxes(
    image: Picture,
    boxes: NDArray[Any],
    classes: Sequence[int],
    labels: Sequence[str],
    title: str = "",
) -> Picture:
    """
    Draw boxes, one colour a class, on an enlarged copy of a small image.

    Args:
        image (array): (H, W, 3) uint8 RGB.
        boxes (array): (M, 4) xyxy in pixels of the image.
        classes (list[int]): M; -1 draws a dashed grey box.
        labels (list[str]): M texts above the boxes; "" for none.
        title (str): text in the upper left corner.

    Returns:
        array: (H', W', 3) uint8 RGB.
    """
    factor = max(1.0, _MIN_SIDE / max(image.shape[:2]))
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    visualizer = Visualizer(
        np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    )
    font_size = max(7.0, math.sqrt(size[0] * size[1]) / 75)
    for box, k, label in zip(boxes * factor, classes, labels, strict=True):
        is_crowd = k < 0
        # Hues in steps of the golden ratio: neighbours differ, however many classes there are.
        color = _CROWD_COLOR if is_crowd else colorsys.hsv_to_rgb(k * 0.618 % 1, 0.8, 1.0)
        visualizer.draw_box(box, alpha=1.0, edge_color=color, line_style="--" if is_crowd else "-")
        if label:
            top = box[1] - 2.1 * font_size
            place = (max(box[0], 0), top if top > 0 else min(box[3], size[1] - 2.1 * font_size))
            visualizer.draw_text(
                label, place, font_size=font_size, color=color, horizontal_alignment="left"
            )
    if title:
        visualizer.draw_text(
            title, (6, 6), font_size=1.5 * font_size, color="w", horizontal_alignment="left"
        )
    return visualizer.output.get_image()


def draw_side_by_side(left: Picture, right: Picture) -> Picture:
    """Two pictures of equal height on white, with a gap between them."""
    gap = np.full((left.shape[0], _GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def draw_comparisons(
    dataset_name: str, results_json: Path, score_thresh: float, num_images: int
) -> Iterator[tuple[str, Picture]]:
    """
    Annotations beside detections, for images spread evenly over a dataset.

    Args:
        dataset_name (str): a registered dataset with COCO-format annotations.
        results_json (Path): ``coco_instances_results.json`` of detectron2's COCOEvaluator.
        score_thresh (float): detections below it are not drawn.
        num_images (int): at most so many.

    Yields:
        (str, array): name of the image file, and the picture (H, W, 3) uint8 RGB.
    """
    detections = defaultdict(list)
    for detection in json.loads(results_json.read_text()):
        if detection["score"] >= score_thresh:
            detections[detection["image_id"]].append(detection)
    dataset = DatasetCatalog.get(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    # The evaluator wrote the dataset's own category ids.
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    names = metadata.thing_classes
    step = max(1, len(dataset) // num_images)
    for record in dataset[::step][:num_images]:
        image = read_image(record["file_name"], format="RGB")
        truth = record.get("annotations", [])
        left = draw_boxes(
            image,
            _xyxy([x["bbox"] for x in truth], [x["bbox_mode"] for x in truth]),
            [-1 if x.get("iscrowd") else x["category_id"] for x in truth],
            ["crowd" if x.get("iscrowd") else names[x["category_id"]] for x in truth],
            "ground truth",
        )
        found = sorted(detections[record["image_id"]], key=lambda x: x["score"])
        classes = [contiguous.get(x["category_id"], x["category_id"]) for x in found]
        right = draw_boxes(
            image,
            _xyxy([x["bbox"] for x in found], [BoxMode.XYWH_ABS] * len(found)),
            classes,
            [f"{names[k]} {x['score']:.0%}" for k, x in zip(classes, found, strict=True)],
            f"predictions above {score_thresh:.0%}",
        )
        yield Path(record["file_name"]).name, draw_side_by_side(left, right)


def _xyxy(boxes: Sequence[Sequence[float]], modes: Sequence[Any]) -> NDArray[Any]:
    converted = [
        BoxMode.convert(list(box), mode, BoxMode.XYXY_ABS)
        for box, mode in zip(boxes, modes, strict=True)
    ]
    return np.array(converted, dtype=np.float64).reshape(-1, 4)
