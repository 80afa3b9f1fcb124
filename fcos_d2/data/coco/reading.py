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
from .recognition import describe_bytes

__all__ = ["make_dataset_dicts", "parse_json", "paused_garbage_collection"]


@contextmanager
def paused_garbage_collection() -> Iterator[None]:
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
    if (description := describe_bytes(raw)) is not None:
        raise fault(description)
    encoding = json.detect_encoding(raw)
    if encoding not in ("utf-8", "utf-8-sig"):
        raise fault(f"looks like {encoding.upper()}: save it as UTF-8")
    try:
        text = raw.decode(encoding)
        del raw  # as large as the file
        with paused_garbage_collection():
            return json.loads(text)
    except UnicodeDecodeError as error:
        raise fault(f"is not UTF-8: {error}. Save it as UTF-8") from error
    except ValueError as error:
        raise fault(f"is not JSON: {error}") from error
    except RecursionError as error:
        raise fault("is not JSON that can be parsed: it is nested too deeply") from error


def make_dataset_dicts(
    content: Mapping[str, Any], image_root: str, class_indices: Mapping[int, int]
) -> list[dict[str, Any]]:
    """
    Make the same dicts as detectron2's ``load_coco_json``, without pycocotools and its index.

    Args:
        content (dict): The result of ``normalize``. The dicts share its lists.
        image_root (str): The folder that the ``file_name`` of images is relative to.
        class_indices (dict): Class index by category id. Annotations of other categories are left
            out.

    Returns:
        list[dict]: A dict for each image, in the order of image ids, with annotations in the file's
        order.
    """
    with paused_garbage_collection():
        by_image: dict[int, list[dict[str, Any]]] = {x["id"]: [] for x in content["images"]}
        for annotation in content.get("annotations", ()):
            if annotation["category_id"] in class_indices:
                by_image[annotation["image_id"]].append(_convert(annotation, class_indices))
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


def _convert(annotation: Mapping[str, Any], class_indices: Mapping[int, int]) -> dict[str, Any]:
    """Convert an annotation to detectron2's format."""
    converted = {
        key: annotation[key] for key in ("iscrowd", "bbox", "keypoints") if key in annotation
    }
    converted["category_id"] = class_indices[annotation["category_id"]]
    converted["bbox_mode"] = BoxMode.XYWH_ABS
    if segmentation := annotation.get("segmentation"):
        converted["segmentation"] = _compress(segmentation)
    if keypoints := annotation.get("keypoints"):
        # COCO's keypoints are pixel indices; detectron2 expects the centers of the pixels.
        converted["keypoints"] = [x if i % 3 == 2 else x + 0.5 for i, x in enumerate(keypoints)]
    return converted


def _compress(segmentation: Any) -> Any:
    """Return polygons as they are, and an RLE in its compressed form."""
    if not isinstance(segmentation, dict) or not isinstance(segmentation["counts"], list):
        return segmentation
    from pycocotools import mask

    return mask.frPyObjects(segmentation, *segmentation["size"])
