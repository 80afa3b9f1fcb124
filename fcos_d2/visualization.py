"""Pictures of annotations and detections, drawn with detectron2's Visualizer."""

import colorsys
import json
import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.visualizer import Visualizer
from numpy.typing import NDArray
from PIL import Image

from .atomic_write import replacing
from .data.coco import class_indices, is_finite
from .data.images import image_to_array, open_image
from .errors import InputError, nearest

__all__ = [
    "draw_boxes",
    "draw_comparison",
    "draw_side_by_side",
    "read_detections",
    "sample_records",
    "save_picture",
]

logger = logging.getLogger(__name__)

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
    Draw boxes, one color for each class, on an enlarged copy of a small image.

    Args:
        image (array): (H, W, 3) uint8 RGB.
        boxes (array): (M, 4) xyxy in pixels of the image.
        classes (list[int]): M; -1 draws a dashed gray box.
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
        # Hues in steps of the golden ratio: neighbors differ, however many classes there are.
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
    """Put two pictures of equal height on white, with a gap between them."""
    gap = np.full((left.shape[0], _GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def sample_records(dataset_name: str, num_images: int) -> list[dict[str, Any]]:
    """
    Take at most ``num_images`` of a registered dataset's dicts, spread evenly over it.

    Raises:
        InputError: the dataset is not registered, cannot be loaded, or does not name its classes.
    """
    dataset = _load_dataset(dataset_name)
    return dataset[:: max(1, len(dataset) // num_images)][:num_images]


def _load_dataset(name: str) -> list[dict[str, Any]]:
    if name not in DatasetCatalog:
        raise InputError(
            f"The dataset {name!r} is not registered. {nearest(name, DatasetCatalog.list())} One "
            "of yours is given as NAME=ANNOTATIONS.json:IMAGES/"
        )
    try:
        dataset = DatasetCatalog.get(name)
    except (OSError, AssertionError) as error:
        raise InputError(f"The dataset {name!r} cannot be loaded: {error}") from error
    if not MetadataCatalog.get(name).get("thing_classes"):
        raise InputError(f"The dataset {name!r} does not say what its classes are.")
    return dataset


def read_detections(results_json: Path, dataset_name: str) -> dict[Any, list[dict[str, Any]]]:
    """
    Read the detections of an evaluation, with the indices of their classes.

    Args:
        results_json (Path): ``coco_instances_results.json`` of detectron2's COCOEvaluator.
        dataset_name (str): the registered dataset that was evaluated on.

    Returns:
        dict: by image id; each detection has ``bbox`` ([x, y, width, height] in pixels), ``score``
        and ``class`` (int), the weakest first.

    Raises:
        InputError: the file is not such a list, or of another dataset.
    """

    def fault(text: str) -> InputError:
        return InputError(f"{results_json}: {text}", file=str(results_json))

    try:
        content = json.loads(results_json.read_bytes())
    except (OSError, ValueError) as error:
        raise fault(f"the results are not a JSON file: {error}.") from error
    if not isinstance(content, list):
        raise fault(f"the results are not a list of detections. {_RIGHT_FILE}")
    image_ids = {record["image_id"] for record in _load_dataset(dataset_name)}
    classes = class_indices(dataset_name)
    detections = defaultdict(list)
    for index, entry in enumerate(content):
        wrong = _what_is_wrong(entry)
        if wrong:
            raise fault(f"detection {index} {wrong}. {_RIGHT_FILE}")
        if entry["category_id"] not in classes:
            raise fault(
                f"detection {index} has category_id = {entry['category_id']!r}, "
                f"which the dataset {dataset_name!r} does not have. Are the results of another "
                "dataset?"
            )
        detections[entry["image_id"]].append(
            {"bbox": entry["bbox"], "score": entry["score"], "class": classes[entry["category_id"]]}
        )
    foreign = detections.keys() - image_ids
    if detections and len(foreign) == len(detections):
        raise fault(
            f"no detection is of an image of the dataset {dataset_name!r}; the "
            f"first has image_id = {content[0]['image_id']!r}. Are the results of another dataset?"
        )
    if foreign:
        logger.warning(
            "%s has detections of %d images that the dataset %r does not have; they are left out.",
            results_json,
            len(foreign),
            dataset_name,
        )
    return {
        image_id: sorted(found, key=lambda x: x["score"]) for image_id, found in detections.items()
    }


_RIGHT_FILE = "An evaluation writes the right file, coco_instances_results.json."


def _what_is_wrong(entry: Any) -> str:
    """What is wrong with one detection in COCO's format; "" if nothing is."""
    if not isinstance(entry, dict):
        return "is not an object"
    for field in ("image_id", "category_id", "bbox", "score"):
        if field not in entry:
            return f"has no {field!r}"
    for field in ("image_id", "category_id"):
        if not isinstance(entry[field], (int, str)):
            return f"has {field} = {entry[field]!r}"
    if not is_finite(entry["score"]):
        return f"has score = {entry['score']!r}"
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, box)):
        return f"has bbox = {box!r}, which are not four numbers"
    return ""


def draw_comparison(
    record: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    score_thresh: float,
) -> Picture:
    """
    Draw the annotations of an image, and next to them what was detected.

    Args:
        record (dict): of ``sample_records``.
        detections (list[dict]): of this image, from ``read_detections``.
        names (list[str]): of the classes, by index.
        score_thresh (float): detections below it are not drawn.

    Returns:
        array: (H, W, 3) uint8 RGB.

    Raises:
        InputError: the image cannot be read.
    """
    image = image_to_array(open_image(record["file_name"]), "RGB")
    truth = record.get("annotations", [])
    left = draw_boxes(
        image,
        _xyxy([x["bbox"] for x in truth], [x["bbox_mode"] for x in truth]),
        [-1 if x.get("iscrowd") else x["category_id"] for x in truth],
        ["crowd" if x.get("iscrowd") else names[x["category_id"]] for x in truth],
        "ground truth",
    )
    found = [x for x in detections if x["score"] >= score_thresh]
    right = draw_boxes(
        image,
        _xyxy([x["bbox"] for x in found], [BoxMode.XYWH_ABS] * len(found)),
        [x["class"] for x in found],
        [f"{names[x['class']]} {x['score']:.0%}" for x in found],
        f"predictions above {score_thresh:.0%}",
    )
    return draw_side_by_side(left, right)


def _xyxy(boxes: Sequence[Sequence[float]], modes: Sequence[Any]) -> NDArray[Any]:
    converted = [
        BoxMode.convert(list(box), mode, BoxMode.XYXY_ABS)
        for box, mode in zip(boxes, modes, strict=True)
    ]
    return np.array(converted, dtype=np.float64).reshape(-1, 4)


def save_picture(picture: Picture, path: Path) -> None:
    """Write an (H, W, 3) uint8 RGB array; the suffix of the path chooses the format."""
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary)
