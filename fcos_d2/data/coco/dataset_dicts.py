"""Conversion of the dataset dicts that a Python function returns into COCO content."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from ...errors import InputError, listed
from .keypoint_fields import count_labeled
from .record_checks import find_record_faults

__all__ = ["convert_dataset_dicts"]


def convert_dataset_dicts(
    name: str, records: Any, *, is_training: bool = False, is_test: bool = True
) -> dict[str, Any]:
    """
    Convert the dataset dicts of a function into COCO content.

    The content is like that of an annotation file, for ``normalize``. The dicts are not changed.
    detectron2's ``convert_to_coco_dict`` does nearly the same, but it takes only dicts without
    faults.

    Args:
        name (str): The dataset, whose metadata has the classes.
        records (list[dict]): What its function returned.
        is_training (bool): Whether training uses the dataset, which needs the annotations.
        is_test (bool): Whether evaluations use the dataset. If not, images are numbered, and may
            have no ids or repeated ones.

    Returns:
        dict: The content. It has no list "annotations" if no dict has one.

    Raises:
        InputError: If the dicts or the metadata cannot be converted. The message lists all kinds of
            faults, with the index of the first dict.
    """
    metadata = MetadataCatalog.get(name)
    classes = list(metadata.get("thing_classes") or ())
    indices = metadata.get("thing_dataset_id_to_contiguous_id")
    if indices is None:
        indices = {i: i for i in range(len(classes))}
    texts = [*_find_metadata_faults(name, classes, indices)]
    if not texts:
        texts += find_record_faults(records, len(classes), is_training=is_training, is_test=is_test)
    if texts:
        kind = "training" if is_training else "test"
        raise InputError.of(InputError(f"The {kind} set {name!r}: {text}") for text in texts)
    ids = {index: category_id for category_id, index in indices.items()}
    content = {
        "images": [_convert_image(i, x, is_test) for i, x in enumerate(records)],
        "categories": [{"id": ids[i], "name": x} for i, x in enumerate(classes)],
    }
    if any("annotations" in x for x in records):
        images = zip(records, content["images"], strict=True)
        boxes = ((box, image["id"]) for x, image in images for box in x.get("annotations", ()))
        content["annotations"] = [
            {"id": i, **_convert_box(box, image_id, ids)}
            for i, (box, image_id) in enumerate(boxes, start=1)
        ]
    return content


def _find_metadata_faults(
    name: str, classes: Sequence[str], indices: Mapping[Any, int]
) -> Iterator[str]:
    """Yield texts about class names and ids in the metadata of a dataset."""
    repeated = [x for x, count in Counter(classes).items() if count > 1]
    if not classes:
        yield (
            "its metadata has no thing_classes, the names of the classes. Set them: "
            f"MetadataCatalog.get({name!r}).thing_classes = [...]"
        )
    elif repeated:
        yield f"thing_classes of its metadata has names more than once: {listed(repeated)}."
    elif sorted(indices.values()) != list(range(len(classes))):
        yield (
            "thing_dataset_id_to_contiguous_id of its metadata must have each index of "
            f"thing_classes once, from 0 to {len(classes) - 1}."
        )


def _convert_image(index: int, record: Mapping[str, Any], is_test: bool) -> dict[str, Any]:
    """Convert the dict of an image."""
    return {
        "id": _plain(record["image_id"]) if is_test else index,
        "file_name": str(record.get("file_name", f"index {index}")),
        "width": int(record["width"]),
        "height": int(record["height"]),
    }


def _convert_box(
    record: Mapping[str, Any], image_id: Any, category_ids: Mapping[int, Any]
) -> dict[str, Any]:
    """Convert the dict of an annotation, without its id; the area is left to ``normalize``."""
    x, y, width, height = (float(value) for value in record["bbox"])
    if record["bbox_mode"] == BoxMode.XYXY_ABS:
        width, height = width - x, height - y
    converted = {
        "image_id": image_id,
        "category_id": category_ids[int(record["category_id"])],
        "bbox": [round(value, 3) for value in (x, y, width, height)],
        "iscrowd": _plain(record.get("iscrowd", 0)),
    }
    if "segmentation" in record:
        converted["segmentation"] = _convert_segmentation(record["segmentation"])
    if record.get("keypoints") is not None:
        converted |= _convert_keypoints(record["keypoints"])
    return converted


def _convert_segmentation(value: list[Any] | Mapping[str, Any]) -> Any:
    """Convert polygons or an RLE into values of JSON."""
    if isinstance(value, list):
        return [x.tolist() if isinstance(x, np.ndarray) else x for x in value]
    counts = value.get("counts")
    return {**value, "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def _convert_keypoints(values: Any) -> dict[str, Any]:
    """Convert keypoints to COCO's, which are numbers of pixels and not positions in the image."""
    flat = np.asarray(values).ravel().tolist()
    keypoints = [x if i % 3 == 2 else x - 0.5 for i, x in enumerate(flat)]
    return {"keypoints": keypoints, "num_keypoints": count_labeled(keypoints)}


def _plain(value: Any) -> Any:
    """Return the Python number of a number of NumPy; another value is returned as it is."""
    return value.item() if isinstance(value, np.generic) else value
