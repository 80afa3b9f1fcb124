"""
Reading and augmenting images: what an image costs, and what worker processes deliver.

Images are JPEGs of COCO's usual size, drawn from a seed, and mapped by the standard recipe.
"""

import copy
import math
import os
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from contest import Bench, Case
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.data.detection_utils import build_augmentation, read_image
from detectron2.data.transforms import AugInput, AugmentationList
from detectron2.structures import BoxMode
from measuring import Work
from PIL import Image
from workloads import make_cfg

from fcos_d2.data.dataset_mapper import FCOSDatasetMapper

__all__ = ["draw_photos", "loader", "mapper"]

_BOXES = 7  # an image, as in COCO
_QUALITY = 90
_PREFETCHED = 2  # batches that PyTorch lets each worker prepare ahead


def draw_photos(folder: Path, count: int, size: tuple[int, int]) -> list[dict[str, Any]]:
    """
    JPEGs as heavy as photographs, about 2 bits a pixel, every third of them upright.

    Args:
        size (tuple[int, int]): height and width in pixels, of those that are not upright.

    Returns:
        list[dict]: in detectron2's dataset format.
    """
    draw = np.random.default_rng(0)
    found = []
    for index in range(count):
        height, width = size[::-1] if index % 3 == 2 else size
        coarse = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        smooth = np.asarray(
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        )
        grainy = smooth + draw.normal(0, 6, smooth.shape)
        file = folder / f"{index}.jpg"
        Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(file, quality=_QUALITY)
        corners = draw.uniform(0, [width / 2, height / 2], (_BOXES, 2))
        boxes = np.concatenate([corners, draw.uniform(10, [width / 2, height / 2], (_BOXES, 2))], 1)
        annotations = [
            {"bbox": list(box), "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0}
            for box in boxes
        ]
        found.append(
            {
                "file_name": str(file),
                "image_id": index,
                "height": height,
                "width": width,
                "annotations": annotations,
            }
        )
    return found


def mapper(bench: Bench) -> Iterator[Case]:
    """One image, in one process; also the two steps that cost most, alone."""
    cfg = make_cfg(bench.sizes, bench.device)
    with tempfile.TemporaryDirectory() as folder:
        photos = draw_photos(Path(folder), bench.sizes.photos, bench.sizes.photo)
        image_format = cfg.INPUT.FORMAT
        augment = AugmentationList(build_augmentation(cfg, is_train=True))
        images = [read_image(photo["file_name"], image_format) for photo in photos]
        works = {
            "fcos_d2": _map_all(FCOSDatasetMapper(cfg, is_train=True), photos),
            "detectron2": _map_all(DatasetMapper(cfg, is_train=True), photos),
            "reading alone": Work(
                lambda _: [read_image(x["file_name"], image_format) for x in photos]
            ),
            "resizing and flipping alone": Work(lambda _: [augment(AugInput(x)) for x in images]),
        }
        height, width = bench.sizes.photo
        case = bench.time("mapper", f"one image of {height}x{width}", works)
    for values in case.values.values():
        values[:] = [value / len(photos) for value in values]
    yield case


def _map_all(mapper_: DatasetMapper, photos: list[dict[str, Any]]) -> Work:
    return Work(lambda copies: [mapper_(x) for x in copies], lambda: copy.deepcopy(photos))


def loader(bench: Bench) -> Iterator[Case]:
    """Images a second of detectron2's loader with our mapper, when nothing else waits for it."""
    cfg = make_cfg(bench.sizes, bench.device)
    with tempfile.TemporaryDirectory() as folder:
        photos = draw_photos(Path(folder), bench.sizes.photos, bench.sizes.photo)
        values: dict[str, list[float]] = {}
        counts = [x for x in bench.sizes.loader_workers if x <= (os.cpu_count() or 1)]
        for workers in counts:  # one after the other: all would prepare ahead meanwhile
            name = f"{workers} worker{'' if workers == 1 else 's'}"
            values[name] = _images_a_second(cfg, photos, workers, bench)
    batch = bench.sizes.loader_batch
    yield Case("loader", f"batches of {batch}", "images/s", values, images=batch)


def _images_a_second(
    cfg: CfgNode, photos: list[dict[str, Any]], workers: int, bench: Bench
) -> list[float]:
    """For each round, what one loader delivers once all that was prepared ahead is used up."""
    batch = bench.sizes.loader_batch
    batches = iter(
        build_detection_train_loader(
            photos,
            mapper=FCOSDatasetMapper(cfg, is_train=True),
            total_batch_size=batch,
            aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            num_workers=workers,
        )
    )

    def take(count: int) -> None:
        for _ in islice(batches, count):
            pass

    # Grouping by aspect ratio makes PyTorch hand over images one by one, and batches come unevenly.
    ahead = math.ceil(_PREFETCHED * max(workers, 1) / batch) + 1
    work = Work(lambda _: take(bench.sizes.loader_batches), lambda: take(ahead))
    case = bench.time("loader", "", {"": work})
    images = batch * bench.sizes.loader_batches
    return [images / milliseconds * 1000 for milliseconds in case.values[""]]
