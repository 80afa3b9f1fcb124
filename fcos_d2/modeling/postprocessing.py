"""
Post-processing: from the raw maps of the head to detections, by selection, decoding and NMS.

N = images, K = classes, R = locations of an image over all levels, P = candidates (of the batch; in
``suppress``, of one image), T = candidates that the top-k of each level keeps, D = detections of
one image.
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
from .fixed_shape_candidates import FixedCandidates, select_fixed
from .fixed_shape_detections import RankedCandidates, rank_candidates, suppress_ranked
from .levels import Levels, gather_locations
from .nms import best_after_nms, clip_boxes
from .predictions import DensePredictions

__all__ = ["POSTPROCESSOR_ARGUMENTS", "FCOSPostProcessor", "score_candidates", "suppress"]

logger = logging.getLogger(__name__)

_FIELDS = ("pred_boxes", "scores", "pred_classes")  # fields that all detections have


# --8<-- [start:score]
def score_candidates(class_scores: Tensor, quality: Tensor | None) -> Tensor:
    """
    Compute the scores of detections: sqrt(class score * quality).

    See arXiv:2006.09214, eq. 4. Without a quality, the score is the class score. This is the
    default ``candidates.ScoreFunction``.

    Args:
        class_scores (Tensor): (P,), or any shape that can be broadcast with ``quality``.
        quality (Tensor | None): (P,); None if the head predicts no quality.
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
    class_agnostic_nms=FLAG,
    detections_per_image=integer(at_least=1),
)


class FCOSPostProcessor:
    """
    The post-processing of FCOS, from the raw maps of a head to detections.

    1. ``candidates``: apply the threshold, keep the top-k of each image and level, decode boxes.
    2. ``suppress``: clip boxes to the image, drop empty ones, apply NMS within each class or, with
       ``class_agnostic_nms``, across classes, and keep the highest scores.
    3. ``Candidates.to_instances``: convert to detectron2's Instances.
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
        class_agnostic_nms: bool = False,
        detections_per_image: int = 100,
        score_function: ScoreFunction = score_candidates,
    ) -> None:
        """
        Store the settings of the three steps.

        Args:
            levels (Levels): The levels of the head.
            score_thresh_test (float): Minimum class score of candidates (exclusive), see
                ``candidates.threshold_candidates``.
            thresh_with_ctr (bool): Apply this threshold to class score * quality instead.
            topk_candidates_test (int): Maximum number of candidates of each image and level that go
                into NMS.
            nms_thresh_test (float): IoU above which the lower-scoring box of a class is removed.
            class_agnostic_nms (bool): Apply NMS to all boxes together instead of within each class.
            detections_per_image (int): Maximum number of detections of an image.
            score_function (Callable): Computes the scores, see ``candidates.ScoreFunction``.

        Raises:
            InputError: If a value is out of its range.
        """
        POSTPROCESSOR_ARGUMENTS.check(locals())
        self.levels = levels
        self.score_thresh_test = score_thresh_test
        self.thresh_with_ctr = thresh_with_ctr
        self.topk_candidates_test = topk_candidates_test
        self.nms_thresh_test = nms_thresh_test
        self.class_agnostic_nms = class_agnostic_nms
        self.detections_per_image = detections_per_image
        self.score_function = score_function
        self._has_warned = False

    @classmethod
    def from_config(cls, cfg: CfgNode, levels: Levels) -> dict[str, Any]:
        """Read the arguments of the constructor from a config."""
        return {"levels": levels, **POSTPROCESSOR_ARGUMENTS.read(cfg)}

    def __call__(
        self, predictions: DensePredictions, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """
        Compute the detections of a batch.

        Args:
            predictions (DensePredictions): Outputs of the head for a batch.
            image_sizes (list[tuple[int, int]]): Height and width of each image without padding.

        Returns:
            list[Instances]: Detections of each image by descending score: ``pred_boxes`` in pixels
            of the image, ``scores``, ``pred_classes``, and a field for each extra output of the
            head.
        """
        kept = self.suppress(self.candidates(predictions), image_sizes)
        return [x.to_instances(size) for x, size in zip(kept, image_sizes, strict=True)]

    @torch.no_grad()
    def candidates(self, predictions: DensePredictions) -> Candidates:
        """
        Select candidates and decode their boxes.

        Candidates whose score or box is not finite are dropped before the top-k. The first time
        this happens, a warning is logged.

        Args:
            predictions (DensePredictions): Outputs of the head for a batch.

        Returns:
            Candidates: T candidates, sorted by image, then by level, then by descending score.

        Raises:
            InputError: If an extra output does not have the sizes of the levels, or has the name of
                a standard field of detections.
        """
        _check_extra(predictions)
        selection = threshold_candidates(
            predictions.cls_logits,
            predictions.quality_logits,
            self.score_thresh_test,
            self.thresh_with_ctr,
            self.score_function,
        )
        best, flat_idxs = self._find_best(selection, predictions)  # T candidates, (T,)
        raw_ltrb = gather_locations(predictions.raw_ltrb, flat_idxs)  # (T, 4)
        # Usually all scores and boxes are finite. So at first only the top-k candidates are tested.
        # This is enough: NaN and +inf rank first, and other candidates are dropped anyway.
        if not _is_finite(best.scores, raw_ltrb).all():
            all_flat_idxs = _flat_idxs(predictions, selection)  # (P,)
            all_raw_ltrb = gather_locations(predictions.raw_ltrb, all_flat_idxs)  # (P, 4)
            is_finite = _is_finite(selection.scores, all_raw_ltrb)  # (P,)
            self._warn_once_of_nonfinite(int((~is_finite).sum()), len(is_finite))
            best, flat_idxs = self._find_best(selection.at(is_finite), predictions)
            raw_ltrb = gather_locations(predictions.raw_ltrb, flat_idxs)  # (T, 4)
        boxes = decode_candidates(  # (T, 4)
            best, raw_ltrb, predictions.feature_sizes, self.levels
        )
        fields = {  # (T, C) each
            name: gather_locations(maps, flat_idxs) for name, maps in predictions.extra.items()
        }
        return Candidates(*best, boxes, fields)

    def fixed_candidates(self, predictions: DensePredictions) -> FixedCandidates:
        """
        Select candidates and decode their boxes, in tensors of fixed shapes.

        Args:
            predictions (DensePredictions): Outputs of the head for a batch.

        Returns:
            FixedCandidates: See ``fixed_shape_candidates.select_fixed``.
        """
        return select_fixed(
            predictions,
            self.levels,
            self.score_thresh_test,
            self.topk_candidates_test,
            self.thresh_with_ctr,
            self.score_function,
        )

    def rank(self, predictions: DensePredictions, sizes: Tensor) -> RankedCandidates:
        """
        Select candidates in tensors of fixed shapes, and prepare them for NMS.

        Args:
            predictions (DensePredictions): Outputs of the head for a batch.
            sizes (Tensor): See ``fixed_shape_detections.pack_sizes``.
        """
        _check_extra(predictions)
        candidates = self.fixed_candidates(predictions)
        return rank_candidates(candidates, predictions, sizes, self.class_agnostic_nms)

    def suppress_ranked(
        self, ranked: RankedCandidates, output_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """
        Apply NMS to the candidates of ``rank``, and keep the best.

        Args:
            ranked (RankedCandidates): The candidates of a batch.
            output_sizes (list[tuple[int, int]]): Height and width that the detections are for.

        Returns:
            list[Instances]: Detections of each image, as after detectron2's
            ``detector_postprocess``.
        """
        detections, num_nonfinite, num_selected = suppress_ranked(
            ranked, output_sizes, self.nms_thresh_test, self.detections_per_image
        )
        if num_nonfinite:
            self._warn_once_of_nonfinite(num_nonfinite, num_selected)
        return detections

    def _find_best(
        self, selection: Selection, predictions: DensePredictions
    ) -> tuple[Selection, Tensor]:
        """
        Keep the top-k candidates of each image and level.

        Args:
            selection (Selection): P candidates.
            predictions (DensePredictions): Outputs of the head for a batch.

        Returns:
            tuple[Selection, Tensor]: The T candidates, and the (T,) indices of their locations
            among the N * R of the batch.
        """
        best_idxs = best_candidates(selection, len(self.levels), self.topk_candidates_test)  # (T,)
        best = selection.at(best_idxs)
        return best, _flat_idxs(predictions, best)

    @torch.no_grad()
    def suppress(
        self, candidates: Candidates, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """
        Clip the boxes of each image, apply NMS, and keep the best; see the function ``suppress``.

        Args:
            candidates (Candidates): P candidates of the batch, sorted by image.
            image_sizes (list[tuple[int, int]]): Height and width of each image without padding.

        Returns:
            list[Candidates]: The detections of each image, by descending score.
        """
        candidates_per_image = candidates.split_images(len(image_sizes))
        return [
            suppress(
                image_candidates,
                size,
                self.nms_thresh_test,
                self.detections_per_image,
                self.class_agnostic_nms,
            )
            for image_candidates, size in zip(candidates_per_image, image_sizes, strict=True)
        ]

    def _warn_once_of_nonfinite(self, num_dropped: int, num_candidates: int) -> None:
        """Warn once that candidates are not finite."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%d of %d candidates of a batch have a score or a box that is NaN or infinite, and "
                "are dropped. In later batches, such candidates are dropped without a warning. The "
                "weights may have diverged, or the range of half precision may be too small for "
                "this model.",
                num_dropped,
                num_candidates,
            )


def _flat_idxs(predictions: DensePredictions, selection: Selection) -> Tensor:
    """Return the (P,) indices of the candidates' locations among all N * R of the batch."""
    num_locations = sum(height * width for height, width in predictions.feature_sizes)  # R
    return selection.image_idxs * num_locations + selection.location_idxs  # (P,)


def _is_finite(scores: Tensor, raw_ltrb: Tensor) -> Tensor:
    """
    Return whether the score and the raw box of each candidate are finite, a (P,) bool tensor.

    Args:
        scores (Tensor): (P,) scores.
        raw_ltrb (Tensor): (P, 4) raw outputs of the head.
    """
    # A sum is finite only if all of its terms are.
    return (raw_ltrb.sum(dim=1, dtype=torch.float32) + scores).isfinite()  # (P,)


def _check_extra(predictions: DensePredictions) -> None:
    """Check that the extra outputs of the head can become fields of detections."""
    for name, maps in predictions.extra.items():
        if name in _FIELDS:
            raise InputError(
                f"An extra output of the head is named {name!r}, which is a standard field of "
                "detections. Give it another name."
            )
        sizes = [tuple(x.shape[2:]) for x in maps]
        if sizes != predictions.feature_sizes:
            raise InputError(
                f"The extra output {name!r} of the head has maps of the sizes {sizes}, but the "
                f"levels have the sizes {predictions.feature_sizes}. An extra output needs one map "
                "for each level, of the level's size."
            )


@torch.no_grad()
def suppress(
    candidates: Candidates,
    image_size: tuple[int, int],
    nms_thresh: float,
    max_detections: int,
    class_agnostic: bool = False,
) -> Candidates:
    """
    Clip boxes to the image, drop empty ones, apply NMS, and keep the best.

    Args:
        candidates (Candidates): P candidates of one image.
        image_size (tuple[int, int]): Height and width without padding.
        nms_thresh (float): A box is removed if its IoU with a box of the same class and a higher
            score is above this threshold.
        max_detections (int): Maximum number of detections.
        class_agnostic (bool): Apply NMS to all boxes together instead of within each class.

    Returns:
        Candidates: The D detections, by descending score.
    """
    boxes, has_area = clip_boxes(candidates.boxes, image_size)  # (P, 4), (P,)
    with_area = has_area.nonzero().squeeze(1)  # (boxes with area,)
    classes = candidates.classes[with_area]  # (boxes with area,)
    best = best_after_nms(  # (D,)
        boxes[with_area],
        candidates.scores[with_area],
        torch.zeros_like(classes) if class_agnostic else classes,
        nms_thresh,
        max_detections,
    )
    return replace(candidates, boxes=boxes)[with_area[best]]  # D candidates
