"""Writing of the scenes of ``scene.py`` as PNG files with annotations in COCO's format."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray
from tqdm import tqdm

from ...atomic_write import replacing
from .paint import Doubles
from .scene import Scene, draw_scene
from .spec import KEYPOINT_CONNECTIONS, KEYPOINT_NAMES, SHAPE_CLASSES

__all__ = [
    "annotate_scene",
    "find_polygons",
    "label_keypoints",
    "write_split",
]


def write_split(
    folder: Path, split: str, count: int, info: Mapping[str, Any], *, with_images: bool = True
) -> None:
    """
    Draw the images of a split and write its ``annotations.json``.

    Args:
        folder (Path): The folder, which is new if images are written. Its parent must exist.
        split (str): "train" or "val".
        count (int): The number of images.
        info (dict): The content of ``info`` in the JSON file.
        with_images (bool): Write the images. If not, they must exist.
    """
    if with_images:
        (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in tqdm(range(count), desc=f"drawing shapes_{split}", unit="image"):
        scene = draw_scene(split, index)
        file_name = f"{index:06d}.png"
        if with_images:
            _, png = cv2.imencode(".png", scene.image[..., ::-1])
            (folder / "images" / file_name).write_bytes(png.tobytes())
        height, width = scene.owner.shape
        images.append({"id": index, "file_name": file_name, "height": height, "width": width})
        for annotation in annotate_scene(scene):
            # Ids start from 1, because COCOeval reads 0 as "no match".
            annotations.append({"id": len(annotations) + 1, "image_id": index, **annotation})
    content = {
        "info": dict(info),
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [
            {
                "id": i,
                "name": name,
                "supercategory": "shape",
                "keypoints": list(KEYPOINT_NAMES),
                "skeleton": [[start + 1, end + 1] for start, end in KEYPOINT_CONNECTIONS],
            }
            for i, name in enumerate(SHAPE_CLASSES, start=1)
        ],
    }
    with replacing(folder / "annotations.json") as file:
        file.write_text(json.dumps(content))


def annotate_scene(scene: Scene) -> list[dict[str, Any]]:
    """
    Make the COCO annotations of the visible part of each object.

    All coordinates are floats, because detectron2's transforms scale polygons in place and would
    truncate integers.

    Args:
        scene (Scene): The scene.

    Returns:
        list[dict]: ``bbox`` (x, y, width, height in pixels, without the right and the bottom edge),
        ``area`` (pixels), ``category_id`` (from 1), ``iscrowd``, ``segmentation`` (polygons, or a
        compressed RLE for a crowd), ``keypoints`` (see ``label_keypoints``; zeros for a crowd) and
        ``num_keypoints`` (those in the image).
    """
    annotations = []
    for index, (label, is_crowd) in enumerate(zip(scene.classes, scene.is_crowd, strict=True)):
        mask = scene.owner == index
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        if is_crowd:
            rle = mask_util.encode(np.asfortranarray(mask.view(np.uint8)))
            segmentation = rle | {"counts": rle["counts"].decode("ascii")}
        else:
            polygons = find_polygons(mask[y : y + height, x : x + width])
            segmentation = [(p + np.array([x, y], float)).ravel().tolist() for p in polygons]
        keypoints = label_keypoints(scene, index)
        annotations.append(
            {
                "category_id": label + 1,
                "bbox": [float(x), float(y), float(width), float(height)],
                "area": float(np.count_nonzero(mask)),
                "iscrowd": int(is_crowd),
                "segmentation": segmentation,
                "keypoints": keypoints.ravel().tolist(),
                "num_keypoints": int(np.count_nonzero(keypoints[:, 2])),
            }
        )
    return annotations


def label_keypoints(scene: Scene, index: int) -> Doubles:
    """
    Make COCO's keypoints of an object.

    Args:
        scene (Scene): The scene.
        index (int): The index of the object.

    Returns:
        array: (5, 3) x, y and visibility: 2 for a visible point, 1 where a later object covers it,
        and three zeros for a point outside of the image. As in COCO, x = 0 is the center of the
        first pixel. Values are rounded to 0.01.
    """
    height, width = scene.owner.shape
    labeled = np.zeros((len(KEYPOINT_NAMES), 3))
    for i, (x, y) in enumerate(scene.keypoints[index].tolist()):
        if 0 <= x < width and 0 <= y < height:
            is_covered = scene.owner[int(y), int(x)] > index
            labeled[i] = round(x - 0.5, 2), round(y - 0.5, 2), 1 if is_covered else 2
    return labeled


def find_polygons(mask: NDArray[np.bool_]) -> list[NDArray[Any]]:
    """
    Find polygons that cover exactly the pixels of a mask.

    They follow the edges of pixels, not the centers: a polygon through the centers would lose half
    a pixel on each side, which is a third of the area of a 6-pixel square. COCO's polygons have no
    holes, so a mask with a hole is split in two at the hole.

    Args:
        mask (array): (h, w) bool.

    Returns:
        list[array]: (P, 2) xy with P >= 4, integers from 0 to w and from 0 to h.
    """
    # Each pixel becomes 3 x 3 subpixels. A contour passes through the outer ones, which are 3 x or
    # 3 x + 2 for a pixel x; the nearest edges, x or x + 1, are those of the pixel.
    fine = np.repeat(np.repeat(mask.view(np.uint8), 3, axis=0), 3, axis=1)
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return []
    polygons = []
    for contour, (_, _, _, parent) in zip(contours, hierarchy[0], strict=True):
        points = (contour[:, 0] + 2) // 3
        if parent >= 0:  # a hole
            x = int(points[:, 0].min() + points[:, 0].max()) // 2
            right = [polygon + np.array([x, 0]) for polygon in find_polygons(mask[:, x:])]
            return find_polygons(mask[:, :x]) + right
        polygons.append(points[np.any(points != np.roll(points, 1, axis=0), axis=1)])
    return polygons
