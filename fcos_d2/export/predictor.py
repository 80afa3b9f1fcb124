"""Detection on images with an exported model."""

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..errors import InputError
from ..prediction import ImagePredictor
from .checking import pad_to_size
from .loading import load_exported
from .tensor_model import Detections

__all__ = ["ExportedPredictor"]


class ExportedPredictor(ImagePredictor):
    """
    A detector for image files and arrays that runs an exported model.

    Images are resized as the config of the model says, or so that they fit into the fixed size of
    the model.

    Args:
        file (str | Path): A .onnx or .pt2 file of ``export_model``.

    Raises:
        InputError: If the file cannot be loaded, or has no detections as outputs.
    """

    def __init__(self, file: str | Path) -> None:
        self.run, self.info = load_exported(file)
        if self.info.is_raw:
            raise InputError(
                f"{file} was exported with --raw: it has the outputs of the head, and no "
                "detections. Export the model without --raw.",
                file=str(file),
            )
        super().__init__(self._detect, self.info.build_preparation())

    def _detect(self, inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Run the model on prepared images."""
        number, _, height, width = self.info.input_shape
        results = []
        # Only images of the same size can be in one batch.
        for _, group in groupby(inputs, key=lambda x: x["image"].shape):
            for part in _split([*group], number):
                images = [
                    pad_to_size(x["image"], height, width, self.info.pixel_mean) for x in part
                ]
                images += images[:1] * ((number or len(part)) - len(part))
                batch = torch.stack(images).to(getattr(torch, self.info.input_dtype))
                detections = Detections(*self.run(batch))
                results += [_to_instances(x, detections, i) for i, x in enumerate(part)]
        return [{"instances": x} for x in results]


def _split(inputs: list[dict[str, Any]], number: int | None) -> Iterable[list[dict[str, Any]]]:
    """Split a list into lists of at most ``number`` elements; None splits nothing."""
    step = number or len(inputs)
    return [inputs[start : start + step] for start in range(0, len(inputs), step)]


def _to_instances(prepared: dict[str, Any], detections: Detections, index: int) -> Instances:
    """Convert the detections of an image of the batch to pixels of the original image."""
    count = int(detections.counts[index])
    instances = Instances(tuple(prepared["image"].shape[1:]))
    instances.pred_boxes = Boxes(_rows(detections.boxes, index, count))
    instances.scores = _rows(detections.scores, index, count)
    instances.pred_classes = _rows(detections.classes, index, count)
    return detector_postprocess(instances, prepared["height"], prepared["width"])


def _rows(values: Tensor, index: int, count: int) -> Tensor:
    """Return the rows of an image that are detections."""
    return values[index, :count]
