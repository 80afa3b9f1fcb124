"""
The centroids of masks, which center sampling can use instead of the centers of boxes.

Mi = gt boxes of image i, H x W = height and width of the image in pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor

from ...errors import InputError

__all__ = ["centers_of_masks", "mask_centroids"]

_MIN_AREA = 1e-9  # square pixels; a smaller area is the rounding error of a mask without area


def centers_of_masks(instances: Instances) -> Tensor:
    """
    Return the point of each object around which center sampling selects locations.

    Args:
        instances (Instances): Annotations of one image: ``gt_boxes`` (Boxes) and, if there are
            objects, ``gt_masks``.

    Returns:
        Tensor: (Mi, 2) float32 xy of the centroids of the masks, on the device of the boxes. A
        centroid outside its box is moved to the nearest point of the box.

    Raises:
        InputError: If there are objects without masks.
    """
    boxes = instances.gt_boxes.tensor.float()  # (Mi, 4)
    if len(boxes) == 0:
        return boxes[:, :2]  # (0, 2)
    if not instances.has("gt_masks"):
        raise InputError(
            "MODEL.FCOS.CENTER_OF_MASK = True, but an image has objects without gt_masks. Set "
            "MODEL.MASK_ON True, so that masks are read, and check that each annotation has a "
            "segmentation; or set MODEL.FCOS.CENTER_OF_MASK False.",
            key="MODEL.FCOS.CENTER_OF_MASK",
            value=True,
        )
    centroids = mask_centroids(instances.gt_masks, instances.gt_boxes)  # (Mi, 2)
    return torch.minimum(torch.maximum(centroids, boxes[:, :2]), boxes[:, 2:])  # (Mi, 2)


def mask_centroids(masks: PolygonMasks | BitMasks, boxes: Boxes) -> Tensor:
    """
    Compute the centroids of masks; a mask without area gets the center of its box.

    The polygons of a mask are weighted by their areas. Where they overlap, the overlap is counted
    for each of them. The center of pixel (row i, column j) of a bit mask is at (j + 0.5, i + 0.5),
    which agrees with how detectron2 rasterizes polygons.

    Args:
        masks (PolygonMasks | BitMasks): The Mi masks.
        boxes (Boxes): The boxes of the same objects.

    Returns:
        Tensor: (Mi, 2) float32 xy in pixels, on the device of the boxes.

    Raises:
        InputError: If the masks are of another type.
    """
    xyxy = boxes.tensor.float()  # (Mi, 4)
    if isinstance(masks, PolygonMasks):
        moments = np.array([_moments_of_polygons(polygons) for polygons in masks.polygons])
        area_and_moments = torch.from_numpy(moments.reshape(-1, 3))  # (Mi, 3)
    elif isinstance(masks, BitMasks):
        area_and_moments = _moments_of_bits(masks.tensor)  # (Mi, 3)
    else:
        raise InputError(
            f"gt_masks are {type(masks).__name__}, but MODEL.FCOS.CENTER_OF_MASK = True requires "
            "PolygonMasks or BitMasks of detectron2.",
            key="MODEL.FCOS.CENTER_OF_MASK",
            value=True,
        )
    area = area_and_moments[:, :1]  # (Mi, 1)
    centroids = area_and_moments[:, 1:] / area.clamp(min=_MIN_AREA)  # (Mi, 2)
    centroids = centroids.float().to(xyxy.device)  # (Mi, 2)
    has_area = (area > _MIN_AREA).to(xyxy.device)  # (Mi, 1)
    return torch.where(has_area, centroids, (xyxy[:, :2] + xyxy[:, 2:]) / 2)  # (Mi, 2)


def _moments_of_polygons(polygons: Sequence[np.ndarray]) -> np.ndarray:
    """
    Return a (3,) float64 array: area and area * centroid of a mask, summed over its polygons.

    Args:
        polygons (list[ndarray]): (2 * corners,) coordinates x, y, x, y, ... of each polygon.
    """
    total = np.zeros(3)
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)  # (corners, 2)
        # Coordinates are relative to the first point, so that large ones do not lose precision.
        relative = points - points[0]  # (corners, 2)
        following = np.roll(relative, -1, axis=0)  # (corners, 2)
        cross = relative[:, 0] * following[:, 1] - following[:, 0] * relative[:, 1]  # (corners,)
        area = cross.sum() / 2  # (); its sign shows the direction of the points
        moment = ((relative + following) * cross[:, None]).sum(axis=0) / 6  # (2,)
        total += np.sign(area) * np.array([area, *(moment + area * points[0])])  # (3,)
    return total


def _moments_of_bits(bits: Tensor) -> Tensor:
    """
    Return an (Mi, 3) tensor: area and area * centroid of each mask.

    The values are computed as integers until the last division, so they are exact.

    Args:
        bits (Tensor): (Mi, H, W) bool.
    """
    _, height, width = bits.shape
    per_column = bits.sum(dim=1)  # (Mi, W)
    per_row = bits.sum(dim=2)  # (Mi, H)
    area = per_column.sum(dim=1)  # (Mi,)
    # Twice the moments, because 2 * (j + 0.5) = 2 * j + 1 is an integer.
    twice_x = (per_column * (2 * torch.arange(width, device=bits.device) + 1)).sum(dim=1)  # (Mi,)
    twice_y = (per_row * (2 * torch.arange(height, device=bits.device) + 1)).sum(dim=1)  # (Mi,)
    return torch.stack([2 * area, twice_x, twice_y], dim=1) / 2  # (Mi, 3)
