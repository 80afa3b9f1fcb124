"""How many images a second detectron2's data loader delivers with our mapper."""

import math
import os
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.structures import BoxMode
from measuring import Work, time_interleaved
from PIL import Image
from workloads import Sizes

from fcos_d2.data.dataset_mapper import FCOSDatasetMapper

__all__ = ["measure_loader"]

_BATCHES = 6  # of a round


def measure_loader(cfg: CfgNode, sizes: Sizes, repeats: int) -> Iterator[Case]:
    """Measure one loader after the other, because each prepares batches in advance."""
    batch_size, rates = sizes.large_batch, {}
    with tempfile.TemporaryDirectory() as folder:
        dataset = _draw_photos(Path(folder), sizes.photo)
        for workers in [x for x in sizes.workers if x <= (os.cpu_count() or 1)]:
            loader = build_detection_train_loader(
                dataset,
                mapper=FCOSDatasetMapper(cfg, is_train=True),
                total_batch_size=batch_size,
                num_workers=workers,
            )
            # PyTorch lets each worker prepare two images in advance: these are used up first.
            work = _make_work(iter(loader), math.ceil(2 * workers / batch_size) + 1)
            milliseconds = time_interleaved({"": work}, repeats, "cpu")[""]
            rates[f"{workers} workers"] = [_BATCHES * batch_size / x * 1000 for x in milliseconds]
    yield Case("loader", f"batches of {batch_size}", "images/s", rates, images=batch_size)


def _make_work(batches: Iterator[Any], num_ready: int) -> Work:
    def take(count: int) -> None:
        for _ in islice(batches, count):
            pass

    return Work(lambda _: take(_BATCHES), lambda: take(num_ready))


def _draw_photos(folder: Path, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Draw JPEG files as large as photographs, every third upright, in detectron2's format."""
    draw, dataset = np.random.default_rng(0), []
    for index in range(32):
        height, width = size[::-1] if index % 3 == 2 else size
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        pixels = (smooth + draw.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
        file = str(folder / f"{index}.jpg")
        Image.fromarray(pixels).save(file, quality=90)  # about 2 bits a pixel
        box = [width / 4, height / 4, width / 2, height / 2]
        annotation = {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
        record = {"file_name": file, "image_id": index, "height": height, "width": width}
        dataset.append({**record, "annotations": [annotation] * 7})
    return dataset
