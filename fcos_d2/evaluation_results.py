"""The results of an evaluation, read from its file, and the dataset that they belong to."""

import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any, TypedDict

from detectron2.data import DatasetCatalog, MetadataCatalog

from .data.coco import (
    class_indices,
    file_ids,
    is_finite,
    is_run_length_encoding,
    normalized_content,
)
from .data.keypoints import num_keypoints_of
from .errors import InputError, count_words, nearest, short_repr

__all__ = ["Detection", "load_dataset", "read_detections"]

logger = logging.getLogger(__name__)

# A TypedDict in this form, because "class" is a keyword.
_Box = TypedDict("_Box", {"bbox": list[float], "score": float, "class": int})


class Detection(_Box, total=False):
    """
    A detection, with a box [x, y, width, height] in pixels, a score and a class index.

    Attributes:
        segmentation (dict): The mask as a run-length encoding, if there is one.
        keypoints (list[float]): x, y and score of each keypoint, as indices of pixels, if there are
            any.
    """

    segmentation: dict[str, Any]
    keypoints: list[float]


_FILE_HINT = "Give the file coco_instances_results.json, which an evaluation writes."


def load_dataset(name: str) -> list[dict[str, Any]]:
    """
    Load the dicts of a registered dataset.

    Args:
        name (str): The name of the dataset.

    Raises:
        InputError: If the dataset is not registered, cannot be loaded, or has no class names.
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
        score.

    Raises:
        InputError: If the file is not a list of detections, or if its detections are for another
            dataset.
    """
    entries = _read_entries(results_json, num_keypoints_of(dataset_name))
    image_ids, classes = _ids_in_results(dataset_name)
    detections: dict[int | str, list[Detection]] = defaultdict(list)
    for index, entry in enumerate(entries):
        if entry["category_id"] not in classes:
            raise _fault(
                results_json,
                f"detection {index} has category_id = {entry['category_id']!r}, which the dataset "
                f"{dataset_name!r} does not have. Are the results from another dataset?",
            )
        detection: Detection = {
            "bbox": entry["bbox"],
            "score": entry["score"],
            "class": classes[entry["category_id"]],
        }
        if "segmentation" in entry:
            detection["segmentation"] = entry["segmentation"]
        if "keypoints" in entry:
            detection["keypoints"] = entry["keypoints"]
        detections[image_ids.get(entry["image_id"], entry["image_id"])].append(detection)
    unknown_ids = detections.keys() - set(image_ids.values())
    if detections and len(unknown_ids) == len(detections):
        raise _fault(
            results_json,
            f"no detection is of an image of the dataset {dataset_name!r}; the first has image_id "
            f"= {entries[0]['image_id']!r}. Are the results from another dataset?",
        )
    if unknown_ids:
        logger.warning(
            "%s has detections of %s that the dataset %r does not have; they are left out.",
            results_json,
            count_words(len(unknown_ids), "{image|images}"),
            dataset_name,
        )
    return {
        image_id: sorted(of_image, key=lambda x: x["score"], reverse=True)
        for image_id, of_image in detections.items()
    }


def _read_entries(results_json: Path, num_keypoints: int) -> list[dict[str, Any]]:
    """
    Read the detections in COCO's format, and check the fields of each.

    Args:
        results_json (Path): The file.
        num_keypoints (int): The number of keypoints of an object; 0 if it is unknown.
    """
    try:
        content = json.loads(results_json.read_bytes())
    except (OSError, ValueError) as error:
        raise _fault(results_json, f"the results are not a JSON file: {error}.") from error
    if not isinstance(content, list):
        raise _fault(results_json, f"the results are not a list of detections. {_FILE_HINT}")
    for index, entry in enumerate(content):
        if problem := _describe_problem(entry, num_keypoints):
            raise _fault(results_json, f"detection {index} {problem}. {_FILE_HINT}")
    return content


def _fault(results_json: Path, text: str) -> InputError:
    """Make the error about a file of results."""
    return InputError(f"{results_json}: {text}", file=str(results_json))


def _ids_in_results(dataset_name: str) -> tuple[dict[Any, Any], dict[Any, int]]:
    """
    Return the meaning of the ids in the results of an evaluation.

    Returns:
        tuple[dict, dict]: The image id in the dataset dicts, by image id in the results, and the
        class index by category id in the results. Results have the ids of the annotation file.
    """
    image_ids = {record["image_id"]: record["image_id"] for record in load_dataset(dataset_name)}
    classes: dict[Any, int] = dict(class_indices(dataset_name))
    if MetadataCatalog.get(dataset_name).get("json_file"):
        content = normalized_content(dataset_name)
        own = file_ids(content, "images")
        image_ids |= {own[i]: i for i in own.keys() & image_ids.keys()}
        own = file_ids(content, "categories")
        classes |= {own[i]: classes[i] for i in own.keys() & classes.keys()}
    return image_ids, classes


def _describe_problem(entry: Any, num_keypoints: int) -> str:
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
    if "segmentation" in entry and not _is_mask(entry["segmentation"]):
        return (
            f"has segmentation = {short_repr(entry['segmentation'], 60)}, which is not a "
            "run-length encoding {'size': [height, width], 'counts': ...}"
        )
    if "keypoints" in entry:
        return _describe_keypoint_problem(entry["keypoints"], num_keypoints)
    return ""


def _is_mask(segmentation: Any) -> bool:
    """Return whether a value has the fields of a run-length encoding; it may still be damaged."""
    return isinstance(segmentation, dict) and is_run_length_encoding(segmentation)


def _describe_keypoint_problem(keypoints: Any, num_keypoints: int) -> str:
    """Describe what is wrong with the keypoints of a detection; "" if nothing is."""
    if not isinstance(keypoints, list) or len(keypoints) % 3 or not all(map(is_finite, keypoints)):
        return (
            f"has keypoints = {short_repr(keypoints, 60)}, which is not a list of three finite "
            "numbers for each keypoint"
        )
    if num_keypoints and len(keypoints) != 3 * num_keypoints:
        return (
            f"has {len(keypoints) // 3} keypoints, but objects of the dataset have {num_keypoints}"
        )
    return ""
