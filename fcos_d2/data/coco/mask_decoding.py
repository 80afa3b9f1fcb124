"""Masks of segmentations, for pictures."""

from typing import Any

import numpy as np
from detectron2.structures.masks import polygons_to_bitmask
from numpy.typing import NDArray

from .run_lengths import read_run_lengths

__all__ = ["decode_segmentation"]


def decode_segmentation(segmentation: Any, height: int, width: int) -> NDArray[np.bool_] | None:
    """
    Return the mask of a segmentation in detectron2's dataset dicts or in COCO's results.

    Args:
        segmentation (list | dict | array): Polygons in pixels, a run-length encoding, or a mask.
        height (int): Height of the image.
        width (int): Width of the image.

    Returns:
        array | None: (height, width) bool; None if a run-length encoding is damaged, or if it or a
        mask has another size.
    """
    if isinstance(segmentation, list):
        polygons = [np.asarray(x, dtype=np.float64) for x in segmentation]
        # pycocotools would read four values as a box.
        mask = polygons_to_bitmask([x for x in polygons if len(x) >= 6], height, width)
    elif isinstance(segmentation, dict):
        mask = _decode_run_lengths(segmentation)
    else:
        mask = np.asarray(segmentation, dtype=bool)
    return mask if mask is not None and mask.shape == (height, width) else None


def _decode_run_lengths(rle: dict[str, Any]) -> NDArray[np.bool_] | None:
    """Decode the runs of a mask, which go down its columns; None if they are damaged."""
    counts, (height, width) = rle["counts"], rle["size"]
    text = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
    runs = read_run_lengths({"counts": text, "size": [height, width]})
    if runs is None:
        return None
    is_object = np.arange(len(runs)) % 2 == 1
    return np.repeat(is_object, runs).reshape(width, height).T
