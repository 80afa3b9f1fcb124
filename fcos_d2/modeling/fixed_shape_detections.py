"""
Detections from a fixed number of candidates: before NMS, no shape depends on the data.

N = images, R = locations of an image over all levels, T = candidates of an image, K = classes,
D = detections of an image.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import nms

from .fixed_shape_candidates import FixedCandidates
from .levels import constant_on, flatten_levels
from .nms import best_of_sorted, has_area
from .predictions import DensePredictions

__all__ = ["RankedCandidates", "pack_sizes", "rank_candidates", "suppress_ranked"]

Sizes = Sequence[tuple[int, int]]


class RankedCandidates(NamedTuple):
    """
    Candidates by descending score, image by image; padding is last.

    Attributes:
        scores (Tensor): (N, T) float32; -1 for padding.
        classes (Tensor): (N, T) int64.
        boxes (Tensor): (N, T, 4) float32 xyxy in pixels of the output.
        nms_boxes (Tensor): (N, T, 4) float64 xyxy in pixels of the batch. Boxes of different
            classes are moved so that they do not overlap, unless NMS compares them.
        fields (dict[str, Tensor]): (N, T, C) values of the extra outputs of the head by name.
        counts (Tensor): (N + 2,) int64: numbers of candidates of each image, number of candidates
            that are not finite, number of candidates before the top-k.
    """

    scores: Tensor
    classes: Tensor
    boxes: Tensor
    nms_boxes: Tensor
    fields: dict[str, Tensor]
    counts: Tensor


def pack_sizes(image_sizes: Sizes, output_sizes: Sizes, device: torch.device) -> Tensor:
    """
    Pack the sizes of images into one tensor, for ``rank_candidates``.

    Args:
        image_sizes (list[tuple[int, int]]): Height and width of each image without padding.
        output_sizes (list[tuple[int, int]]): Height and width that the detections are for.
        device (torch.device): Device of the result.

    Returns:
        Tensor: (N, 3, 2) float32: width and height of the image and of the output, and their
        ratios.
    """
    rows = [
        [width, height, out_width, out_height, out_width / width, out_height / height]
        for (height, width), (out_height, out_width) in zip(image_sizes, output_sizes, strict=True)
    ]
    return constant_on(rows, device).view(-1, 3, 2)


@torch.no_grad()
def rank_candidates(
    candidates: FixedCandidates,
    predictions: DensePredictions,
    sizes: Tensor,
    class_agnostic_nms: bool = False,
) -> RankedCandidates:
    """
    Clip boxes to the images, scale them to the outputs, and sort them by score.

    This is what ``postprocessing.suppress`` does before NMS, and what detectron2's
    ``detector_postprocess`` does after it. Boxes without area become padding.

    Args:
        candidates (FixedCandidates): Candidates of a batch.
        predictions (DensePredictions): The outputs of the head, for its extra outputs.
        sizes (Tensor): The result of ``pack_sizes``.
        class_agnostic_nms (bool): Let NMS compare boxes of different classes.
    """
    limits, output_limits, scales = (x[:, None].repeat(1, 1, 2) for x in sizes.unbind(1))
    boxes = candidates.boxes.clamp(min=0).minimum(limits)  # (N, T, 4)
    output_boxes = (boxes * scales).minimum(output_limits)  # (N, T, 4)
    is_box = has_area(boxes) & has_area(output_boxes)  # (N, T)
    scores, order = candidates.scores.where(is_box, -1).sort(  # (N, T) each
        dim=1, descending=True, stable=True
    )

    def take(values: Tensor, index: Tensor) -> Tensor:
        """Return rows of (N, ..., C) values."""
        return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))

    classes = candidates.classes.gather(1, order)  # (N, T)
    nms_boxes = take(boxes, order).double()  # (N, T, 4)
    if not class_agnostic_nms:
        # In float64, boxes that are moved by up to K widths are not rounded.
        nms_boxes += (classes.double() * (limits.amax().double() + 1))[:, :, None]
    location_idxs = candidates.location_idxs.gather(1, order)  # (N, T)
    counts = (scores > -1).sum(dim=1)  # (N,)
    totals = torch.stack([candidates.num_nonfinite, candidates.num_selected])  # (2,)
    return RankedCandidates(
        scores,
        classes,
        take(output_boxes, order),
        nms_boxes,
        {
            name: take(flatten_levels(maps), location_idxs)
            for name, maps in predictions.extra.items()
        },
        torch.cat([counts, totals]),
    )


@torch.no_grad()
def suppress_ranked(
    ranked: RankedCandidates, output_sizes: Sizes, nms_thresh: float, max_detections: int
) -> tuple[list[Instances], int, int]:
    """
    Apply NMS within each class, and keep the best.

    The host reads values once for the batch, and once for each image, in NMS.

    Args:
        ranked (RankedCandidates): Candidates of a batch.
        output_sizes (list[tuple[int, int]]): Height and width that the detections are for.
        nms_thresh (float): See ``postprocessing.suppress``.
        max_detections (int): Maximum number of detections of an image.

    Returns:
        tuple[list[Instances], int, int]: Detections of each image by descending score, the number
        of candidates that are not finite, and the number of candidates before the top-k.
    """
    *counts, num_nonfinite, num_selected = ranked.counts.tolist()
    detections = []
    for image, (count, size) in enumerate(zip(counts, output_sizes, strict=True)):
        boxes, scores = ranked.nms_boxes[image, :count], ranked.scores[image, :count]

        suppress_top = partial(_suppress_top, boxes, scores, nms_thresh)
        keep = best_of_sorted(suppress_top, count, max_detections)  # (D,)
        detections.append(
            Instances(
                size,
                pred_boxes=Boxes(ranked.boxes[image][keep]),
                scores=scores[keep],
                pred_classes=ranked.classes[image][keep],
                **{name: x[image][keep] for name, x in ranked.fields.items()},
            )
        )
    return detections, num_nonfinite, num_selected


def _suppress_top(boxes: Tensor, scores: Tensor, nms_thresh: float, number: int) -> Tensor:
    """Return the indices of the boxes that NMS keeps among the first ones."""
    return nms(boxes[:number], scores[:number].double(), nms_thresh)
