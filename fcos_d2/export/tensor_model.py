"""
FCOS with tensors as inputs and outputs, which is what is exported.

N = images, C = image channels, K = classes, L = levels, Hi x Wi = cells of level i, T = candidates
of an image, D = detections of an image.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..modeling import FCOS, DensePredictions
from .suppression import SuppressionFunction

__all__ = ["Detections", "TensorDetector", "TensorHead", "check_exportable"]


class Detections(NamedTuple):
    """
    The outputs of an exported detector: D rows for each image, by descending score.

    Attributes:
        boxes (Tensor): (N, D, 4) float32 xyxy in pixels of the input; 0 after the last detection.
        scores (Tensor): (N, D) float32; 0 after the last detection.
        classes (Tensor): (N, D) int64; -1 after the last detection.
        counts (Tensor): (N,) int64 number of detections.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    counts: Tensor


def check_exportable(model: nn.Module) -> FCOS:
    """
    Return a model, if its outputs are those of FCOS.

    Raises:
        InputError: If it is another meta-architecture, or a subclass with other outputs.
    """
    if not isinstance(model, FCOS):
        raise InputError(
            f"Only the meta-architecture FCOS can be exported, not {type(model).__name__}: the "
            "outputs of two-stage detectors are not exported yet.",
            key="MODEL.META_ARCHITECTURE",
            value=type(model).__name__,
        )
    for method in ("forward", "forward_inference", "preprocess_image"):
        if not model.keeps(method):
            raise InputError(
                f"{type(model).__name__} replaces FCOS.{method}, and the exported file would not "
                "contain that. Export the model with torch.export in your own program."
            )
    return model


class _TensorModel(nn.Module):
    """
    The part that both exported models have: from images to the predictions of the head.

    Args:
        model (FCOS): The model, in evaluation mode.

    Attributes:
        memory_format (torch.memory_format): The memory format of the maps.
    """

    def __init__(self, model: FCOS) -> None:
        super().__init__()
        self.model = model
        self.memory_format = torch.contiguous_format
        constraints = model.backbone.padding_constraints or {}
        self.divisibility = max(
            constraints.get("size_divisibility", model.backbone.size_divisibility), 1
        )
        self.square_size = constraints.get("square_size", 0)

    def predict(self, images: Tensor) -> DensePredictions:
        """
        Normalize and pad images, and run the network; as ``FCOS.forward`` does for one size.

        Args:
            images (Tensor): (N, C, H, W) uint8 or float32, in the channel order of the config.
        """
        model = self.model
        pixels = (images.to(model.pixel_mean.dtype) - model.pixel_mean) / model.pixel_std
        height, width = images.shape[2:]
        padded_height, padded_width = self._pad_size(height), self._pad_size(width)
        padding = (0, padded_width - width, 0, padded_height - height)
        padded = F.pad(pixels, padding)  # (N, C, padded height, padded width)
        maps = model.backbone(padded.contiguous(memory_format=self.memory_format))
        return model.dense_head.predict([maps[name] for name in model.head_in_features])

    def _pad_size(self, size: int) -> int:
        """Return the padded height or width of an image."""
        divisor = self.divisibility
        # Written so that torch.export can prove that the result is a multiple of the divisor.
        return self.square_size or (size + divisor - 1) // divisor * divisor


class TensorDetector(_TensorModel):
    """
    FCOS from images to detections, in tensors whose shapes depend on the shape of the images only.

    Args:
        model (FCOS): The model, in evaluation mode.
        suppress (Callable): Non-maximum suppression, see ``suppression.SuppressionFunction``.
    """

    def __init__(self, model: FCOS, suppress: SuppressionFunction) -> None:
        super().__init__(model)
        self.suppress = suppress

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """
        Detect objects; the outputs are those of ``Detections``.

        Args:
            images (Tensor): (N, C, H, W) uint8 or float32, in the channel order of the config.
        """
        post = self.model.postprocessor
        height, width = images.shape[2:]
        # The scores of padding are -1.
        candidates = post.fixed_candidates(self.predict(images))  # (N, T) each
        xs = candidates.boxes[..., 0::2].clamp(min=0, max=width)  # (N, T, 2)
        ys = candidates.boxes[..., 1::2].clamp(min=0, max=height)  # (N, T, 2)
        has_area = (xs[..., 0] < xs[..., 1]) & (ys[..., 0] < ys[..., 1])  # (N, T)
        boxes = torch.stack([xs, ys], dim=3).flatten(2)  # (N, T, 4)
        scores, classes = candidates.scores.where(has_area, -1), candidates.classes  # (N, T) each
        is_kept = self.suppress(  # (N, T)
            boxes,
            scores,
            torch.zeros_like(classes) if post.class_agnostic_nms else classes,
            1 if post.class_agnostic_nms else self.model.num_classes,
            post.nms_thresh_test,
            post.detections_per_image,
        )
        return tuple(
            _take_best(boxes, scores.where(is_kept, -1), classes, post.detections_per_image)
        )


def _take_best(boxes: Tensor, scores: Tensor, classes: Tensor, number: int) -> Detections:
    """Take the candidates (N, T) with the highest scores; -1 is the score of padding."""
    best, idxs = F.pad(scores, (0, number), value=-1.0).topk(number)  # (N, D) each
    idxs = idxs.clamp(max=scores.shape[1] - 1)  # (N, D); padding gets any valid index
    is_valid = best > -1  # (N, D)
    best_boxes = boxes.gather(1, idxs[:, :, None].expand(-1, -1, 4))  # (N, D, 4)
    return Detections(
        best_boxes.where(is_valid[:, :, None], 0),
        best.where(is_valid, 0),
        classes.gather(1, idxs).where(is_valid, -1),
        is_valid.sum(dim=1),
    )


class TensorHead(_TensorModel):
    """FCOS from images to the raw outputs of the head, without decoding."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """
        Compute the outputs of the head, in the order of ``output_names``.

        Args:
            images (Tensor): (N, C, H, W) uint8 or float32, in the channel order of the config.
        """
        return tuple(_named_outputs(self.predict(images), self.model.head_in_features).values())

    def output_names(self) -> list[str]:
        """Return the names of the outputs: that of ``DensePredictions`` and that of the level."""
        image = self.model.pixel_mean.new_zeros(1, len(self.model.pixel_mean), 64, 64)
        with torch.no_grad():
            return [*_named_outputs(self.predict(image), self.model.head_in_features)]


def _named_outputs(predictions: DensePredictions, levels: list[str]) -> dict[str, Tensor]:
    """Return the maps of a head by name, such as ``cls_logits_p3``."""
    outputs = {
        "cls_logits": predictions.cls_logits,
        "raw_ltrb": predictions.raw_ltrb,
        "quality_logits": predictions.quality_logits or [],
        **predictions.extra,
    }
    return {
        f"{name}_{level}": x
        for name, maps in outputs.items()
        for level, x in zip(levels, maps, strict=len(maps) > 0)
    }
