"""Conversion of an annotation file in COCO's format to detectron2's dataset dicts."""

import gc
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from ...errors import InputError

__all__ = ["make_dataset_dicts", "parse_json"]


@contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """
    Pause Python's search for cycles of objects while many objects are made.

    An annotation file has millions of objects and no cycles. Searching takes twice as long as
    parsing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            # Both lines together turn the new objects into old ones, which are rarely searched.
            gc.freeze()
            gc.unfreeze()
        if was_enabled:
            gc.enable()


def parse_json(json_file: str | os.PathLike[str]) -> Any:
    """
    Parse an annotation file without checking its content.

    Args:
        json_file (str): The file.

    Raises:
        InputError: If the file is missing, empty, or not JSON in UTF-8.
    """

    def fault(text: str) -> InputError:
        """Make the error for the file."""
        return InputError(
            f"The annotation file {os.path.abspath(json_file)} {text}.", file=str(json_file)
        )

    if not os.path.isfile(json_file):
        raise fault("is a folder" if os.path.isdir(json_file) else "does not exist")
    try:
        raw = Path(json_file).read_bytes()
    except OSError as error:
        raise fault(f"cannot be read: {error.strerror}") from error
    if not raw:
        raise fault("is empty (0 bytes)")
    # pycocotools, which reads the file in an evaluation, supports only UTF-8.
    encoding = json.detect_encoding(raw)
    if encoding != "utf-8":
        name = "UTF-8 with a BOM" if encoding == "utf-8-sig" else encoding.upper()
        raise fault(f"looks like {name}: save it as UTF-8 without BOM")
    try:
        text = raw.decode("utf-8")
        del raw  # as large as the file
        with _paused_garbage_collection():
            return json.loads(text)
    except UnicodeDecodeError as error:
        raise fault(f"is not UTF-8: {error}. Save it as UTF-8") from error
    except ValueError as error:
        raise fault(f"is not JSON: {error}") from error
    except RecursionError as error:
        raise fault("is not JSON that can be parsed: it is nested too deeply") from error


def make_dataset_dicts(
    content: Mapping[str, Any], image_root: str, class_indices: Mapping[int | str, int]
) -> list[dict[str, Any]]:
    """
    Make the same dicts as detectron2's ``load_coco_json``, without pycocotools and its index.

    Args:
        content (dict): The content of an annotation file that was checked. The result shares its
            lists.
        image_root (str): The folder that the ``file_name`` of images is relative to.
        class_indices (dict): Class index by category id. Annotations of other categories are left
            out.

    Returns:
        list[dict]: A dict for each image, in the order of image ids, with annotations in the file's
        order. Annotations are left out if they have no image, or a segmentation without a polygon
        of at least 3 points.
    """
    with _paused_garbage_collection():
        by_image: dict[int | str, list[dict[str, Any]]] = {x["id"]: [] for x in content["images"]}
        for annotation in content["annotations"]:
            if annotation["image_id"] in by_image and annotation["category_id"] in class_indices:
                by_image[annotation["image_id"]] += _convert(annotation, class_indices)
        return [
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "annotations": by_image[image["id"]],
            }
            for image in sorted(content["images"], key=itemgetter("id"))
        ]


def _convert(
    annotation: Mapping[str, Any], class_indices: Mapping[int | str, int]
) -> list[dict[str, Any]]:
    """
    Convert an annotation to detectron2's format.

    Returns:
        list[dict]: One annotation, or none if its segmentation has no polygon.
    """
    converted = {
        key: annotation[key] for key in ("iscrowd", "bbox", "keypoints") if key in annotation
    }
    converted["category_id"] = class_indices[annotation["category_id"]]
    converted["bbox_mode"] = BoxMode.XYWH_ABS
    if segmentation := annotation.get("segmentation"):
        converted["segmentation"] = _convert_segmentation(segmentation)
        if not converted["segmentation"]:
            return []
    if keypoints := annotation.get("keypoints"):
        # COCO's keypoints are pixel indices; detectron2 expects the centers of the pixels.
        converted["keypoints"] = [x if i % 3 == 2 else x + 0.5 for i, x in enumerate(keypoints)]
    return [converted]


def _convert_segmentation(segmentation: Any) -> Any:
    """Return a compressed RLE, or the polygons that have at least 3 points."""
    if not isinstance(segmentation, dict):
        return [x for x in segmentation if len(x) % 2 == 0 and len(x) >= 6]
    if not isinstance(segmentation["counts"], list):
        return segmentation
    from pycocotools import mask

    return mask.frPyObjects(segmentation, *segmentation["size"])
