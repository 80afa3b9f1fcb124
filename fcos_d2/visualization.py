"""Pictures of annotations and detections of a dataset, side by side."""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from .data.coco import class_indices, file_ids, is_finite, normalized_content
from .data.images import image_to_array, open_image
from .drawing import DrawableNames, Picture, draw_boxes, draw_side_by_side
from .errors import InputError, nearest

__all__ = ["Detection", "draw_comparison", "read_detections", "sample_records"]

logger = logging.getLogger(__name__)

# A TypedDict in this form, because "class" is a keyword.
Detection = TypedDict("Detection", {"bbox": list[float], "score": float, "class": int})


def sample_records(dataset_name: str, num_images: int) -> list[dict[str, Any]]:
    """
    Select dicts of a registered dataset, evenly spread over it.

    Args:
        dataset_name (str): The name of the dataset.
        num_images (int): The maximum number of dicts.

    Raises:
        InputError: If the dataset is not registered, cannot be loaded, or has no class names.
    """
    dataset = _load_dataset(dataset_name)
    return dataset[:: max(1, len(dataset) // num_images)][:num_images]


def _load_dataset(name: str) -> list[dict[str, Any]]:
    """
    Load the dicts of a registered dataset.

    Raises:
        InputError: See ``sample_records``.
    """
    if name not in DatasetCatalog:
        raise InputError(
            f"The dataset {name!r} is not registered. {nearest(name, DatasetCatalog.list())} Give "
            "your own dataset as NAME=ANNOTATIONS.json:IMAGES/"
        )
    try:
        dataset = DatasetCatalog.get(name)
    except (OSError, AssertionError) as error:
        raise InputError(f"The dataset {name!r} cannot be loaded: {error}") from error
    if not MetadataCatalog.get(name).get("thing_classes"):
        raise InputError(
            f"The dataset {name!r} has no class names: set thing_classes in its metadata."
        )
    return dataset


def read_detections(results_json: Path, dataset_name: str) -> dict[int | str, list[Detection]]:
    """
    Read the detections of an evaluation, and convert category ids to class indices.

    Args:
        results_json (Path): The file ``coco_instances_results.json`` of detectron2's COCOEvaluator.
        dataset_name (str): The registered dataset of the evaluation.

    Returns:
        dict[int | str, list[Detection]]: The detections by image id, from the highest to the lowest
        score. Boxes are [x, y, width, height] in pixels.

    Raises:
        InputError: If the file is not a list of detections, or if its detections are for another
            dataset.
    """

    def fault(text: str) -> InputError:
        """Make the error for the file."""
        return InputError(f"{results_json}: {text}", file=str(results_json))

    try:
        content = json.loads(results_json.read_bytes())
    except (OSError, ValueError) as error:
        raise fault(f"the results are not a JSON file: {error}.") from error
    if not isinstance(content, list):
        raise fault(f"the results are not a list of detections. {_FILE_HINT}")
    image_ids, classes = _ids_in_results(dataset_name)
    detections: dict[int | str, list[Detection]] = defaultdict(list)
    for index, entry in enumerate(content):
        problem = _describe_problem(entry)
        if problem:
            raise fault(f"detection {index} {problem}. {_FILE_HINT}")
        if entry["category_id"] not in classes:
            raise fault(
                f"detection {index} has category_id = {entry['category_id']!r}, "
                f"which the dataset {dataset_name!r} does not have. Are the results from another "
                "dataset?"
            )
        detections[image_ids.get(entry["image_id"], entry["image_id"])].append(
            {"bbox": entry["bbox"], "score": entry["score"], "class": classes[entry["category_id"]]}
        )
    unknown_ids = detections.keys() - set(image_ids.values())
    if detections and len(unknown_ids) == len(detections):
        raise fault(
            f"no detection is of an image of the dataset {dataset_name!r}; the first has image_id "
            f"= {content[0]['image_id']!r}. Are the results from another dataset?"
        )
    if unknown_ids:
        logger.warning(
            "%s has detections of %d images that the dataset %r does not have; they are left out.",
            results_json,
            len(unknown_ids),
            dataset_name,
        )
    return {
        image_id: sorted(of_image, key=lambda x: x["score"], reverse=True)
        for image_id, of_image in detections.items()
    }


def _ids_in_results(dataset_name: str) -> tuple[dict[Any, Any], dict[Any, int]]:
    """
    Return the meaning of the ids in the results of an evaluation.

    Returns:
        tuple[dict, dict]: The image id in the dataset dicts, by image id in the results, and the
        class index by category id in the results. Results have the ids of the annotation file.
    """
    image_ids = {record["image_id"]: record["image_id"] for record in _load_dataset(dataset_name)}
    classes: dict[Any, int] = dict(class_indices(dataset_name))
    if MetadataCatalog.get(dataset_name).get("json_file"):
        content = normalized_content(dataset_name)
        own = file_ids(content, "images")
        image_ids |= {own[i]: i for i in own.keys() & image_ids.keys()}
        own = file_ids(content, "categories")
        classes |= {own[i]: classes[i] for i in own.keys() & classes.keys()}
    return image_ids, classes


_FILE_HINT = "Give the file coco_instances_results.json, which an evaluation writes."


def _describe_problem(entry: Any) -> str:
    """
    Describe what is wrong with a detection in COCO's format; "" if nothing is.

    The text continues "detection 3 ...".
    """
    if not isinstance(entry, dict):
        return "is not an object"
    for field in ("image_id", "category_id", "bbox", "score"):
        if field not in entry:
            return f"has no {field!r}"
    for field in ("image_id", "category_id"):
        if not isinstance(entry[field], (int, float, str)):
            return f"has {field} = {entry[field]!r}"
    if not is_finite(entry["score"]):
        return f"has score = {entry['score']!r}"
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, box)):
        return f"has bbox = {box!r}, which is not a list of four finite numbers"
    return ""


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
        detections (list[Detection]): The detections of this image, from ``read_detections``.
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
