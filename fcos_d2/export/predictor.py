"""Detection on images with an exported model."""

from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from ..errors import InputError
from ..prediction import ImagePredictor
from .loading import load_exported
from .running import pad_to_accepted_size
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
                f"{file} was exported with raw (--raw): it has the outputs of the head, and no "
                "detections. Export the model without it.",
                file=str(file),
            )
        super().__init__(self._detect, self.info.build_preparation())

    def _detect(self, inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Run the model on prepared images."""
        padded = [pad_to_accepted_size(x["image"], self.info) for x in inputs]
        results = []
        # Only images of the same size can be in one batch.
        for _, group in groupby(zip(inputs, padded, strict=True), key=lambda x: x[1].shape):
            pairs = [*group]
            step = self.info.batch_size or len(pairs)
            for start in range(0, len(pairs), step):
                part, images = zip(*pairs[start : start + step], strict=True)
                images += images[:1] * (step - len(part) if self.info.batch_size else 0)
                batch = torch.stack(images).to(getattr(torch, self.info.input_dtype))
                detections = Detections(*self.run(batch))
                results += [_to_instances(x, detections, i) for i, x in enumerate(part)]
        return [{"instances": x} for x in results]


def _to_instances(prepared: dict[str, Any], detections: Detections, index: int) -> Instances:
    """Convert the detections of an image of the batch to pixels of the original image."""
    boxes, scores, classes = detections.of_image(index)
    instances = Instances(
        tuple(prepared["image"].shape[1:]),
        pred_boxes=Boxes(boxes),
        scores=scores,
        pred_classes=classes,
    )
    return detector_postprocess(instances, prepared["height"], prepared["width"])
