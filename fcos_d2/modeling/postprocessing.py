"""
From raw maps to detections, in three steps: candidates, suppression, Instances.

N = images, P = candidates over all images.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Instances
from torch import Tensor

from ..arguments import FLAG, UNIT_INTERVAL, Arguments, integer, number
from ..errors import InputError
from .candidates import (
    Candidates,
    ScoreFunction,
    Selection,
    best_candidates,
    decode_candidates,
    threshold_candidates,
)
from .fixed_candidates import FixedCandidates, select_fixed
from .levels import Levels, gather_locations
from .nms import class_wise_nms
from .predictions import DensePredictions

__all__ = ["POSTPROCESSOR_ARGUMENTS", "FCOSPostProcessor", "score_candidates", "suppress"]

logger = logging.getLogger(__name__)

_FIELDS = ("pred_boxes", "scores", "pred_classes")  # that detections have without extra outputs
_NMS_SEES_FIRST = 8  # times as many of the best boxes as detections are wanted


# --8<-- [start:score]
def score_candidates(class_scores: Tensor, quality: Tensor | None) -> Tensor:
    """
    Compute the score of detections: sqrt(class score * quality) (arXiv:2006.09214, eq. 4), or the
    class score itself where there is no quality. See ``candidates.ScoreFunction``.
    """
    return class_scores if quality is None else (class_scores * quality).sqrt()
    # --8<-- [end:score]


POSTPROCESSOR_ARGUMENTS = Arguments(
    "MODEL.FCOS",
    elsewhere={"detections_per_image": "TEST"},
    score_thresh_test=number("of at least 0 and below 1", lambda x: 0 <= x < 1),
    thresh_with_ctr=FLAG,
    topk_candidates_test=integer(at_least=1),
    nms_thresh_test=UNIT_INTERVAL,
    detections_per_image=integer(at_least=1),
)


class FCOSPostProcessor:
    """
    Detections from the raw maps of a head.

    1. ``candidates``: threshold, top-k of each image and level, boxes.
    2. ``suppress``: clip to the image, drop empty boxes, NMS within each class, keep the best.
    3. ``Candidates.to_instances``.
    """

    @configurable
    def __init__(
        self,
        *,
        levels: Levels,
        score_thresh_test: float = 0.05,
        thresh_with_ctr: bool = False,
        topk_candidates_test: int = 1000,
        nms_thresh_test: float = 0.6,
        detections_per_image: int = 100,
        score_function: ScoreFunction = score_candidates,
    ) -> None:
        """
        Keep the settings of the three steps.

        Args:
            levels (Levels): of the raw maps.
            score_thresh_test (float): class scores must be above it, see
                ``candidates.threshold_candidates``.
            thresh_with_ctr (bool): class score times quality must be above it.
            topk_candidates_test (int): the best of each image and level that go into NMS.
            nms_thresh_test (float): IoU above which the lower-scoring box of a class is removed.
            detections_per_image (int): how many are returned at most.
            score_function (Callable): see ``candidates.ScoreFunction``.

        Raises:
            InputError: a value out of its range.
        """
        POSTPROCESSOR_ARGUMENTS.check(locals())
        self.levels = levels
        self.score_thresh_test = score_thresh_test
        self.thresh_with_ctr = thresh_with_ctr
        self.topk_candidates_test = topk_candidates_test
        self.nms_thresh_test = nms_thresh_test
        self.detections_per_image = detections_per_image
        self.score_function = score_function
        self._has_warned = False

    @classmethod
    def from_config(cls, cfg: CfgNode, levels: Levels) -> dict[str, Any]:
        return {"levels": levels, **POSTPROCESSOR_ARGUMENTS.read(cfg)}

    def __call__(
        self, predictions: DensePredictions, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """
        Take the three steps.

        Args:
            predictions (DensePredictions): of a batch.
            image_sizes (list[tuple[int, int]]): height and width of each image without padding.

        Returns:
            list[Instances]: for each image ``pred_boxes`` in its pixels, ``scores``,
            ``pred_classes`` and a field for each extra output of the head; best first.
        """
        kept = self.suppress(self.candidates(predictions), image_sizes)
        return [x.to_instances(size) for x, size in zip(kept, image_sizes, strict=True)]

    @torch.no_grad()
    def candidates(self, predictions: DensePredictions) -> Candidates:
        """
        Select and decode: image by image, level by level, best first.

        Candidates whose score or box is not finite are left out before the best are chosen, and the
        first time that there are some a warning says so.

        Raises:
            InputError: extra outputs that are not maps of the levels, or have the name of another
                field of detections.
        """
        _check_extra(predictions)
        selection = threshold_candidates(
            predictions.cls_logits,
            predictions.quality_logits,
            self.score_thresh_test,
            self.thresh_with_ctr,
            self.score_function,
        )
        best, flat_idxs = self._find_best(selection, predictions)
        raw_ltrb = gather_locations(predictions.raw_ltrb, flat_idxs)  # (T, 4)
        # What is not finite ranks first, or does not matter: it is looked for among the best.
        if not _is_finite(best.scores, raw_ltrb).all():
            everything = gather_locations(predictions.raw_ltrb, _flat_idxs(predictions, selection))
            is_finite = _is_finite(selection.scores, everything)  # (P,)
            self._warn_of_dropped(int((~is_finite).sum()), len(is_finite))
            best, flat_idxs = self._find_best(selection.at(is_finite), predictions)
            raw_ltrb = gather_locations(predictions.raw_ltrb, flat_idxs)
        boxes = decode_candidates(best, raw_ltrb, predictions.feature_sizes, self.levels)
        fields = {
            name: gather_locations(maps, flat_idxs) for name, maps in predictions.extra.items()
        }
        return Candidates(*best, boxes, fields)

    def fixed_candidates(self, predictions: DensePredictions) -> FixedCandidates:
        """Select and decode in shapes that do not depend on the data, see ``select_fixed``."""
        return select_fixed(
            predictions,
            self.levels,
            self.score_thresh_test,
            self.topk_candidates_test,
            self.thresh_with_ctr,
            self.score_function,
        )

    def _find_best(
        self, selection: Selection, predictions: DensePredictions
    ) -> tuple[Selection, Tensor]:
        """Find the T best of each image and level, and their (T,) locations in the batch."""
        best = selection.at(best_candidates(selection, len(self.levels), self.topk_candidates_test))
        return best, _flat_idxs(predictions, best)

    @torch.no_grad()
    def suppress(
        self, candidates: Candidates, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Suppress the candidates of each image, see ``suppress``; they come image by image."""
        return [
            suppress(of_image, size, self.nms_thresh_test, self.detections_per_image)
            for of_image, size in zip(
                candidates.split_images(len(image_sizes)), image_sizes, strict=True
            )
        ]

    def _warn_of_dropped(self, num_dropped: int, num_candidates: int) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%d of %d candidates of a batch have a score or a box that is NaN or infinite, and "
                "are left out; later ones will be too, without this warning. The weights may have "
                "diverged, or half precision may be too narrow for them.",
                num_dropped,
                num_candidates,
            )


def _flat_idxs(predictions: DensePredictions, selection: Selection) -> Tensor:
    """(P,) location of each pair among the N * R of the batch."""
    num_locations = sum(height * width for height, width in predictions.feature_sizes)
    return selection.image_idxs * num_locations + selection.location_idxs


def _is_finite(scores: Tensor, raw_ltrb: Tensor) -> Tensor:
    """(P,) whether score (P,) and box (P, 4) are; a sum is not if one of its terms is not."""
    return (raw_ltrb.sum(dim=1, dtype=torch.float32) + scores).isfinite()


def _check_extra(predictions: DensePredictions) -> None:
    for name, maps in predictions.extra.items():
        if name in _FIELDS:
            raise InputError(
                f"An extra output of the head is named {name!r}, a field of detections."
            )
        sizes = [tuple(x.shape[2:]) for x in maps]
        if sizes != predictions.feature_sizes:
            raise InputError(
                f"The extra output {name!r} of the head has maps of {sizes}, but the levels have "
                f"{predictions.feature_sizes}."
            )


@torch.no_grad()
def suppress(
    candidates: Candidates, image_size: tuple[int, int], nms_thresh: float, max_detections: int
) -> Candidates:
    """
    Clip to the image, drop empty boxes, apply NMS within each class, and keep the best.

    Args:
        candidates (Candidates): of one image.
        image_size (tuple[int, int]): height and width without padding.
        nms_thresh (float): a box is removed if its IoU with a better one of its class is higher.
        max_detections (int): at most that many are kept.

    Returns:
        Candidates: sorted by descending score.
    """
    height, width = image_size
    xs = candidates.boxes[:, 0::2].clamp(min=0, max=width)  # (P, 2)
    ys = candidates.boxes[:, 1::2].clamp(min=0, max=height)  # (P, 2)
    has_area = (xs[:, 0] < xs[:, 1]) & (ys[:, 0] < ys[:, 1])  # (P,)
    boxes = torch.stack([xs, ys], dim=2).flatten(1)  # (P, 4)
    with_area = has_area.nonzero().squeeze(1)
    best = _best_after_nms(
        boxes[with_area],
        candidates.scores[with_area],
        candidates.classes[with_area],
        nms_thresh,
        max_detections,
    )
    return replace(candidates, boxes=boxes)[with_area[best]]


def _best_after_nms(
    boxes: Tensor, scores: Tensor, classes: Tensor, nms_thresh: float, max_detections: int
) -> Tensor:
    """
    Find the best that NMS keeps, best first.

    Whether a box is kept depends on better ones alone, so NMS looks at more of the worse ones only
    as long as it has not kept enough.
    """
    by_score = scores.argsort(descending=True, stable=True)
    num_seen = _NMS_SEES_FIRST * max_detections
    while True:
        seen = by_score[:num_seen]
        keep = class_wise_nms(boxes[seen], scores[seen], classes[seen], nms_thresh)
        if len(keep) >= max_detections or len(seen) == len(by_score):
            return seen[keep[:max_detections]]
        num_seen *= 4
