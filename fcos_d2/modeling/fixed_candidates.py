"""
The selection of candidates.py in shapes that do not depend on the data: always k candidates of each
image and level. Exported programs and CUDA graphs can have no other.

N = images, K = classes, L = levels, Hi x Wi = cells of level i.
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
    k candidates of each image and level, level by level, best first.

    Attributes:
        scores (Tensor): (N, L*k) float32; -1 where a level has fewer candidates.
        classes (Tensor): (N, L*k) int64.
        location_idxs (Tensor): (N, L*k) int64, location in the image.
        boxes (Tensor): (N, L*k, 4) float32 xyxy in pixels of the padded batch, not clipped.
    """

    scores: Tensor
    classes: Tensor
    location_idxs: Tensor
    boxes: Tensor


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
    Select the best of each image and level: the same ones as the exact selection, but for ties.

    Candidates whose score or box is not finite are left out.

    Args:
        predictions (DensePredictions): of a batch.
        levels (Levels): of the maps.
        score_thresh (float): 0 <= threshold < 1; only what is higher is kept.
        topk_candidates (int): k.
        thresh_with_quality (bool): compare class score times quality, and not the class score.
        score_function (Callable): given class scores (N, Hi*Wi, K) and qualities (N, Hi*Wi, 1);
            what it returns is above -1.
    """
    device = predictions.cls_logits[0].device
    parts, start = [], 0
    for level, xy in enumerate(levels.compute_locations(predictions.feature_sizes, device)):
        logits = flatten_levels([predictions.cls_logits[level]])  # (N, S, K), S = Hi*Wi
        raw_ltrb = flatten_levels([predictions.raw_ltrb[level]])  # (N, S, 4)
        quality_logits = None  # (N, S, 1)
        if predictions.quality_logits is not None:
            quality_logits = flatten_levels([predictions.quality_logits[level]])
        threshold = logit_threshold(score_thresh, quality_logits if thresh_with_quality else None)
        quality = None if quality_logits is None else quality_logits.float().sigmoid()
        scores = score_function(logits.float().sigmoid(), quality).float()  # (N, S, K)
        is_box = raw_ltrb.sum(dim=2, keepdim=True, dtype=torch.float32).isfinite()  # (N, S, 1)
        is_candidate = (logits > threshold) & scores.isfinite() & is_box  # (N, S, K)
        scores, classes, cells = _find_best(scores.where(is_candidate, -1), topk_candidates)
        raw = raw_ltrb.gather(1, cells[:, :, None].expand(-1, -1, 4))  # (N, k, 4)
        ltrb = activate_ltrb(raw, levels.strides[level], levels.box_activation)
        parts.append(FixedCandidates(scores, classes, start + cells, decode_ltrb(xy[cells], ltrb)))
        start = start + xy.shape[0]  # len() would make a constant of it in an exported program
    return FixedCandidates(*(torch.cat(x, dim=1) for x in zip(*parts, strict=True)))


def _find_best(scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the k best of (N, S, K), with k more of -1: scores, classes, cells, each (N, k)."""
    num_cells, num_classes = scores.shape[1:]
    padded = F.pad(scores.flatten(1), (0, k), value=-1.0)  # (N, S*K + k)
    best, idxs = padded.topk(k)
    idxs = idxs.clamp(max=num_cells * num_classes - 1)  # of the padding, any
    return best, idxs % num_classes, idxs // num_classes
