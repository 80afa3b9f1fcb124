"""
FCOS with tensors as inputs and outputs, which is what is exported.

N = images, C = image channels, K = classes, L = levels, Hi x Wi = cells of level i, T = candidates
of an image, D = detections of an image.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, listed
from ..modeling import FCOS, DensePredictions
from ..modeling.fixed_shape_candidates import padded_topk
from ..modeling.nms import clip_boxes
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

    def of_image(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and classes of the detections of one image."""
        count = int(self.counts[index])
        return self.boxes[index, :count], self.scores[index, :count], self.classes[index, :count]


def check_exportable(model: nn.Module, raw: bool) -> FCOS:
    """
    Check that a file would compute what a model computes, and return the model.

    Args:
        model (nn.Module): The model.
        raw (bool): Whether only the outputs of the head are exported.

    Raises:
        InputError: If it is of another meta-architecture, or has replaced methods or parts that the
            file would not contain.
    """
    if not isinstance(model, FCOS):
        raise InputError(
            f"Only the meta-architecture FCOS can be exported, not {type(model).__name__}: the "
            "outputs of two-stage detectors are not exported yet.",
            key="MODEL.META_ARCHITECTURE",
            value=type(model).__name__,
        )
    methods = ["preprocess_image"] if raw else ["forward", "forward_inference", "preprocess_image"]
    replaced = [f"FCOS.{name}" for name in methods if not model.keeps(name)]
    if not raw and not model.dense_head.has_standard_inference:
        replaced.append("FCOSPostProcessor or FCOSDenseHead")
    if replaced:
        raise InputError(
            f"The model replaces {' and '.join(replaced)}, which the file would not contain. "
            "Export the outputs of the head (raw, --raw), or use torch.export in your own program."
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
        self.square_size = self._round_up(constraints.get("square_size", 0))

    def predict(self, images: Tensor) -> DensePredictions:
        """
        Normalize and pad images, and run the network; as ``FCOS.forward`` does for one size.

        Args:
            images (Tensor): (N, C, H, W) uint8 or float32, in the channel order of the config.
        """
        model = self.model
        pixels = (images.to(model.pixel_mean.dtype) - model.pixel_mean) / model.pixel_std
        height, width = images.shape[2:]
        padded_height = self.square_size or self._round_up(height)
        padded_width = self.square_size or self._round_up(width)
        padding = (0, padded_width - width, 0, padded_height - height)
        padded = F.pad(pixels, padding)  # (N, C, padded height, padded width)
        maps = model.backbone(padded.contiguous(memory_format=self.memory_format))
        return model.dense_head.predict([maps[name] for name in model.head_in_features])

    def _round_up(self, size: int) -> int:
        """Return the next multiple of the divisibility."""
        # Written so that torch.export can prove that the result is a multiple.
        return (size + self.divisibility - 1) // self.divisibility * self.divisibility


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
        # The scores of padding are -1.
        candidates = post.fixed_candidates(self.predict(images))  # (N, T) each
        boxes, has_area = clip_boxes(  # (N, T, 4), (N, T)
            candidates.boxes, (images.shape[2], images.shape[3])
        )
        boxes = boxes.where(has_area[..., None], 0)  # (N, T, 4), without NaN
        scores, classes = candidates.scores.where(has_area, -1), candidates.classes  # (N, T) each
        is_kept = self.suppress(  # (N, T)
            boxes,
            scores,
            torch.zeros_like(classes) if post.class_agnostic_nms else classes,
            1 if post.class_agnostic_nms else self.model.num_classes,
            post.nms_thresh_test,
        )
        best, idxs = padded_topk(scores.where(is_kept, -1), post.detections_per_image)  # (N, D)
        is_valid = best > -1  # (N, D)
        best_boxes = boxes.gather(1, idxs[:, :, None].expand(-1, -1, 4))  # (N, D, 4)
        return (
            best_boxes.where(is_valid[:, :, None], 0),
            best.where(is_valid, 0),
            classes.gather(1, idxs).where(is_valid, -1),
            is_valid.sum(dim=1),
        )

    def output_names(self, images: Tensor) -> list[str]:
        """
        Return the names of the outputs.

        Args:
            images (Tensor): (N, C, H, W) any images.

        Raises:
            InputError: If the head has more outputs, which would be lost.
        """
        with torch.no_grad():
            extra = self.predict(images).extra
        if extra:
            raise InputError(
                f"The head has more outputs than boxes and classes ({', '.join(extra)}), which "
                "detections in exported files don't have. Export the outputs of the head (raw, "
                "--raw)."
            )
        return list(Detections._fields)


class TensorHead(_TensorModel):
    """FCOS from images to the raw outputs of the head, without decoding."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """
        Compute the outputs of the head, in the order of ``output_names``.

        Args:
            images (Tensor): (N, C, H, W) uint8 or float32, in the channel order of the config.
        """
        return tuple(_named_outputs(self.predict(images), self.model.head_in_features).values())

    def output_names(self, images: Tensor) -> list[str]:
        """
        Return the names of the outputs: that of ``DensePredictions`` and that of the level.

        Args:
            images (Tensor): (N, C, H, W) any images.
        """
        with torch.no_grad():
            return [*_named_outputs(self.predict(images), self.model.head_in_features)]


def _named_outputs(predictions: DensePredictions, levels: list[str]) -> dict[str, Tensor]:
    """Return the maps of a head by name, such as ``cls_logits_p3``."""
    outputs = {
        "cls_logits": predictions.cls_logits,
        "raw_ltrb": predictions.raw_ltrb,
        "quality_logits": predictions.quality_logits or [],
    }
    repeated = outputs.keys() & predictions.extra.keys()
    if repeated:
        raise InputError(
            f"Additional outputs of the head have names of standard ones: {listed([*repeated])}."
        )
    return {
        f"{name}_{level}": x
        for name, maps in {**outputs, **predictions.extra}.items()
        for level, x in zip(levels, maps, strict=len(maps) > 0)
    }
