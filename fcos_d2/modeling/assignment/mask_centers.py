"""
Where the mask of an object has its middle, in pixels of the image that the network sees.

M = objects of an image, H x W = its size.
"""

from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor

from ...errors import InputError

__all__ = ["centers_of_masks", "mask_centroids"]

_MIN_AREA = 1e-9  # square pixels; less is rounding of a mask without area


def centers_of_masks(instances: Instances) -> Tensor:
    """
    The points about which centre sampling looks for the locations of each object.

    Args:
        instances (Instances): of one image, with ``gt_boxes`` (Boxes) and, if there are objects,
            ``gt_masks``.

    Returns:
        Tensor: (M, 2) float32 xy, on the device of the boxes: the centroids of the masks, moved
        into the boxes where they lie outside.

    Raises:
        InputError: objects without masks.
    """
    boxes = instances.gt_boxes.tensor.float()
    if len(boxes) == 0:
        return boxes[:, :2]
    if not instances.has("gt_masks"):
        raise InputError(
            "MODEL.FCOS.CENTER_OF_MASK = True, but an image has objects without gt_masks. Set "
            "MODEL.MASK_ON True, so that masks are read, and see that each annotation has a "
            "segmentation; or set MODEL.FCOS.CENTER_OF_MASK False."
        )
    centroids = mask_centroids(instances.gt_masks, instances.gt_boxes)
    return torch.minimum(torch.maximum(centroids, boxes[:, :2]), boxes[:, 2:])


def mask_centroids(masks: PolygonMasks | BitMasks, boxes: Boxes) -> Tensor:
    """
    Centroids of masks. A mask without area has that of its box.

    The parts of a polygon mask are weighted by their areas; where parts overlap, the overlap counts
    for each. Pixel (i, j) of a bit mask has its middle at (j + 0.5, i + 0.5), which is also how
    polygons are rasterised.

    Args:
        masks (PolygonMasks or BitMasks): M of them.
        boxes (Boxes): of the same objects.

    Returns:
        Tensor: (M, 2) float32 xy in pixels, on the device of the boxes.

    Raises:
        InputError: masks of another type.
    """
    xyxy = boxes.tensor.float()
    if isinstance(masks, PolygonMasks):
        moments = np.array([_moments_of_polygons(parts) for parts in masks.polygons])
        area_and_moments = torch.from_numpy(moments.reshape(-1, 3))
    elif isinstance(masks, BitMasks):
        area_and_moments = _moments_of_bits(masks.tensor)
    else:
        raise InputError(
            f"gt_masks are {type(masks).__name__}, but MODEL.FCOS.CENTER_OF_MASK = True takes "
            "PolygonMasks or BitMasks of detectron2."
        )
    area = area_and_moments[:, :1]
    centroids = (area_and_moments[:, 1:] / area.clamp(min=_MIN_AREA)).float().to(xyxy.device)
    has_area = (area > _MIN_AREA).to(xyxy.device)
    return torch.where(has_area, centroids, (xyxy[:, :2] + xyxy[:, 2:]) / 2)


def _moments_of_polygons(parts: Any) -> np.ndarray:
    """Area, and area times centroid, summed over polygons (x, y, x, y, ...)."""
    total = np.zeros(3)
    for polygon in parts:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        # Seen from its first point, so that large coordinates do not cancel.
        relative = points - points[0]
        following = np.roll(relative, -1, axis=0)
        cross = relative[:, 0] * following[:, 1] - following[:, 0] * relative[:, 1]
        area = cross.sum() / 2  # signed by the direction of the points
        moment = ((relative + following) * cross[:, None]).sum(axis=0) / 6
        total += np.sign(area) * np.array([area, *(moment + area * points[0])])
    return total


def _moments_of_bits(bits: Tensor) -> Tensor:
    """(M, 3) of (M, H, W) bool: area, and area times centroid, exact until the end."""
    _, height, width = bits.shape
    per_column, per_row = bits.sum(dim=1), bits.sum(dim=2)
    area = per_column.sum(dim=1)
    # Twice the moments: 2 j + 1 = 2 (j + 0.5) is an integer.
    twice_x = (per_column * (2 * torch.arange(width, device=bits.device) + 1)).sum(dim=1)
    twice_y = (per_row * (2 * torch.arange(height, device=bits.device) + 1)).sum(dim=1)
    return torch.stack([2 * area, twice_x, twice_y], dim=1) / 2
