"""
Selection of candidates in tensors of fixed shapes: always k for each image and level.

The same candidates are selected as in ``candidates``. This module is for exported programs and CUDA
graphs, in which shapes cannot depend on the data.

N = images, K = classes, L = levels, Hi x Wi = cells of level i, k = candidates of each image and
level.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .candidates import ScoreFunction, logit_threshold
from .levels import Levels, decode_ltrb, flatten_levels
from .predictions import DensePredictions

__all__ = ["FixedCandidates", "padded_topk", "select_fixed"]


class FixedCandidates(NamedTuple):
    """
    The k candidates of each image and level, level by level, by descending score.

    Attributes:
        scores (Tensor): (N, L*k) float32; -1 for padding, where a level has fewer candidates.
        classes (Tensor): (N, L*k) int64.
        location_idxs (Tensor): (N, L*k) int64, index of the location in the image.
        boxes (Tensor): (N, L*k, 4) float32 xyxy in pixels of the padded batch, not clipped.
        num_selected (Tensor): () int64, number of (location, class) pairs of the batch above the
            threshold.
        num_nonfinite (Tensor): () int64, how many of these were dropped because their score or box
            is not finite.
    """

    scores: Tensor
    classes: Tensor
    location_idxs: Tensor
    boxes: Tensor
    num_selected: Tensor
    num_nonfinite: Tensor


@torch.no_grad()
def select_fixed(
    predictions: DensePredictions,
    levels: Levels,
    score_thresh: float,
    topk_candidates: int,
    thresh_with_quality: bool,
    score_function: ScoreFunction,
) -> FixedCandidates:
    """
    Select the candidates with the highest scores of each image and level, and decode their boxes.

    The candidates are those of ``candidates.best_candidates``, except that equal scores may be in
    another order. Candidates whose score or box is not finite are dropped.

    Args:
        predictions (DensePredictions): Outputs of the head for a batch.
        levels (Levels): The levels of the head.
        score_thresh (float): Candidates are selected above this value, 0 <= threshold < 1.
        topk_candidates (int): k.
        thresh_with_quality (bool): Apply the threshold to class score * quality instead of the
            class score.
        score_function (Callable): See ``candidates.ScoreFunction``. It is called with class scores
            (N, Hi*Wi, K) and qualities (N, Hi*Wi, 1), and must return scores above -1.
    """
    # All elementwise operations are on all levels at once: a GPU takes as long for a small tensor
    # as for a larger one.
    logits = flatten_levels(predictions.cls_logits)  # (N, R, K)
    raw_ltrb = flatten_levels(predictions.raw_ltrb)  # (N, R, 4)
    quality_logits = None
    if predictions.quality_logits is not None:
        quality_logits = flatten_levels(predictions.quality_logits)  # (N, R, 1)
    threshold = logit_threshold(  # (N, R, 1) or a number
        score_thresh, quality_logits if thresh_with_quality else None
    )
    quality = None if quality_logits is None else quality_logits.float().sigmoid()  # (N, R, 1)
    scores = score_function(logits.float().sigmoid(), quality).float()  # (N, R, K)
    # A sum is finite only if all of its terms are.
    ltrb_sums = raw_ltrb.sum(dim=2, keepdim=True, dtype=torch.float32)  # (N, R, 1)
    # "Not <=" instead of ">" also selects NaN, so that a warning can count the NaN scores.
    is_above = (logits <= threshold).logical_not()  # (N, R, K)
    is_candidate = is_above & (scores + ltrb_sums).isfinite()  # (N, R, K)
    num_selected, num_finite = is_above.sum(), is_candidate.sum()  # () each
    num_classes = predictions.num_classes  # K
    # Flattened before it is split, because torch.export cannot flatten a slice for any N if K is 1.
    flat_scores = scores.where(is_candidate, -1).flatten(1)  # (N, R*K)

    all_locations = levels.compute_locations(predictions.feature_sizes, logits.device)
    parts, start = [], 0
    for level, locations in enumerate(all_locations):  # (Hi*Wi, 2)
        end = start + locations.shape[0]  # len() would be exported as a constant
        level_scores = flat_scores[:, start * num_classes : end * num_classes]  # (N, Hi*Wi*K)
        best, idxs = padded_topk(level_scores, topk_candidates)  # (N, k) each
        location_idxs = start + idxs // num_classes  # (N, k)
        parts.append((best, idxs % num_classes, location_idxs, torch.full_like(idxs, level)))
        start = end
    scores, classes, location_idxs, level_idxs = (  # (N, L*k) each
        torch.cat(x, dim=1) for x in zip(*parts, strict=True)
    )
    index = location_idxs[:, :, None].expand(-1, -1, 4)  # (N, L*k, 4)
    raw = raw_ltrb.gather(1, index).flatten(0, 1)  # (N*L*k, 4)
    ltrb = levels.activate(raw, level_idxs.flatten()).view(index.shape)  # (N, L*k, 4)
    boxes = decode_ltrb(torch.cat(all_locations)[location_idxs], ltrb)  # (N, L*k, 4)
    return FixedCandidates(
        scores, classes, location_idxs, boxes, num_selected, num_selected - num_finite
    )


def padded_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """
    Find the k highest scores of each image, padded with -1 where there are fewer.

    Args:
        scores (Tensor): (N, T), at least -1.
        k (int): Number of scores of each image.

    Returns:
        tuple[Tensor, Tensor]: Scores (N, k) and their indices (N, k) int64; padding has any valid
        index.
    """
    best, idxs = F.pad(scores, (0, k), value=-1.0).topk(k)  # (N, k) each
    return best, idxs.clamp(max=scores.shape[1] - 1)  # (N, k) each
