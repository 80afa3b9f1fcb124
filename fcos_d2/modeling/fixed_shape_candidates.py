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
from .levels import Levels, activate_ltrb, decode_ltrb, flatten_levels
from .predictions import DensePredictions

__all__ = ["FixedCandidates", "select_fixed"]


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
    device = predictions.cls_logits[0].device
    parts, counts, start = [], [], 0
    locations_per_level = levels.compute_locations(predictions.feature_sizes, device)
    for level, locations in enumerate(locations_per_level):  # (Hi*Wi, 2)
        logits = flatten_levels([predictions.cls_logits[level]])  # (N, Hi*Wi, K)
        raw_ltrb = flatten_levels([predictions.raw_ltrb[level]])  # (N, Hi*Wi, 4)
        quality_logits = None
        if predictions.quality_logits is not None:
            quality_logits = flatten_levels([predictions.quality_logits[level]])  # (N, Hi*Wi, 1)
        threshold = logit_threshold(  # (N, Hi*Wi, 1) or a number
            score_thresh, quality_logits if thresh_with_quality else None
        )
        quality = None if quality_logits is None else quality_logits.float().sigmoid()
        scores = score_function(logits.float().sigmoid(), quality).float()  # (N, Hi*Wi, K)
        # A sum is finite only if all of its terms are.
        ltrb_sums = raw_ltrb.sum(dim=2, keepdim=True, dtype=torch.float32)  # (N, Hi*Wi, 1)
        is_finite = scores.isfinite() & ltrb_sums.isfinite()  # (N, Hi*Wi, K)
        # "Not <=" instead of ">" also selects NaN, so that a warning can count the NaN scores.
        is_above = (logits <= threshold).logical_not()  # (N, Hi*Wi, K)
        is_candidate = is_above & is_finite  # (N, Hi*Wi, K)
        counts.append(torch.stack([is_above.sum(), is_candidate.sum()]))  # (2,)
        scores, classes, cells = _find_best(  # (N, k) each
            scores.where(is_candidate, -1), topk_candidates
        )
        raw = raw_ltrb.gather(1, cells[:, :, None].expand(-1, -1, 4))  # (N, k, 4)
        ltrb = activate_ltrb(raw, levels.strides[level], levels.box_activation)  # (N, k, 4)
        boxes = decode_ltrb(locations[cells], ltrb)  # (N, k, 4)
        parts.append((scores, classes, start + cells, boxes))
        start = start + locations.shape[0]  # len() would be exported as a constant
    num_selected, num_finite = torch.stack(counts).sum(dim=0).unbind()  # () each
    scores, classes, location_idxs, boxes = (  # (N, L*k, ...) each
        torch.cat(x, dim=1) for x in zip(*parts, strict=True)
    )
    return FixedCandidates(
        scores, classes, location_idxs, boxes, num_selected, num_selected - num_finite
    )


def _find_best(scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """
    Find the k highest scores of each image, padded with -1 where a level has fewer.

    Args:
        scores (Tensor): (N, Hi*Wi, K).
        k (int): Number of scores of each image.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Scores, classes and cells, (N, k) each.
    """
    num_cells, num_classes = scores.shape[1:]
    padded = F.pad(scores.flatten(1), (0, k), value=-1.0)  # (N, Hi*Wi*K + k)
    best, idxs = padded.topk(k)  # (N, k) each
    idxs = idxs.clamp(max=num_cells * num_classes - 1)  # (N, k); padding gets any valid index
    return best, idxs % num_classes, idxs // num_classes  # (N, k) each
