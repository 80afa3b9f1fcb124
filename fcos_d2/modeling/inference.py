"""
From raw maps to detections: select, decode, suppress.

N = images, K = classes, L = levels, R = locations of an image, P = candidates over all images.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor

from .levels import (
    Levels,
    constant_on,
    decode_ltrb,
    flatten_levels,
)

__all__ = ["Candidates", "decode_candidates", "select_candidates", "suppress"]

_NMS_SEES_FIRST = 8  # times as many of the best boxes as detections are wanted


class Candidates(NamedTuple):
    """
    (location, class) pairs that survive threshold and top-k: image by image, level by level, best
    first.

    Attributes:
        image_idxs (Tensor): (P,) int64.
        level_idxs (Tensor): (P,) int64.
        location_idxs (Tensor): (P,) int64, 0 <= index < R.
        classes (Tensor): (P,) int64, 0 <= class < K.
        scores (Tensor): (P,) float32, sqrt(class score * quality); the class score where
            there is no quality.
    """

    image_idxs: Tensor
    level_idxs: Tensor
    location_idxs: Tensor
    classes: Tensor
    scores: Tensor


@torch.no_grad()
def select_candidates(
    cls_logits: Sequence[Tensor],
    quality_logits: Sequence[Tensor] | None,
    score_thresh: float,
    topk_candidates: int,
    thresh_with_quality: bool = False,
) -> Candidates:
    """
    Keep what has a score above the threshold, then the best of each image and level.

    A location may be kept for several classes. The threshold is compared in logit space, so that
    the sigmoid is taken of survivors only; the ranking is by class score times quality, and the
    score its root (arXiv:2006.09214, eq. 4). A score may therefore lie below the threshold of
    the class score, and lies above the root of the threshold of the product. Without quality the
    score is the class score itself, and always above the threshold.

    Args:
        cls_logits (list[Tensor]): L maps (N, K, Hi, Wi).
        quality_logits (list[Tensor] | None): L maps (N, 1, Hi, Wi); None: there is no quality.
        score_thresh (float): 0 <= threshold < 1; only what is higher is kept.
        topk_candidates (int): at most so many of each image and level.
        thresh_with_quality (bool): compare class score times quality, and not the class score.
    """
    num_levels = len(cls_logits)
    # One nonzero of all levels and images together; the host has waited for no GPU before it.
    logits = flatten_levels(cls_logits)  # (N, R, K)
    quality = flatten_levels(quality_logits) if quality_logits else None  # (N, R, 1)
    logit_thresh = _logit_threshold(score_thresh, quality if thresh_with_quality else None)
    image_idxs, location_idxs, classes = (logits > logit_thresh).nonzero().unbind(1)
    scores = logits[image_idxs, location_idxs, classes].float().sigmoid()
    if quality is not None:
        scores = (scores * quality[image_idxs, location_idxs, 0].float().sigmoid()).sqrt()
    level_ends = list(accumulate(x.shape[2] * x.shape[3] for x in cls_logits))
    level_idxs = torch.bucketize(location_idxs, constant_on(level_ends, logits.device), right=True)
    candidates = Candidates(image_idxs, level_idxs, location_idxs, classes, scores)
    keep = _best_of_groups(scores, image_idxs * num_levels + level_idxs, topk_candidates)
    return Candidates(*(x[keep] for x in candidates))


def _logit_threshold(score_thresh: float, quality_logits: Tensor | None) -> Tensor | float:
    """What a class logit must be above, for all locations or for each."""
    if quality_logits is not None:
        # p q > t where p > t / q. Where q <= t that is 1 or more: infinity or NaN, above which
        # no logit is.
        return (score_thresh / quality_logits.float().sigmoid()).logit()
    return math.log(score_thresh / (1 - score_thresh)) if score_thresh > 0 else -math.inf


def _best_of_groups(scores: Tensor, groups: Tensor, k: int) -> Tensor:
    """
    Indices of the k best of each group, ordered by group, then by descending score, then by index.

    Args:
        scores (Tensor): (P,) float32, none below 0.
        groups (Tensor): (P,) int64.
        k (int): how many of a group are kept at most.
    """
    # The bits of floats that are not negative order as they do: one sort does for both keys.
    order = ((groups << 32) - scores.view(torch.int32)).argsort(stable=True)
    groups = groups[order]
    place = torch.arange(len(order), device=order.device) - torch.searchsorted(groups, groups)
    return order[place < k]


@torch.no_grad()
def decode_candidates(
    candidates: Candidates,
    raw_ltrb: Sequence[Tensor],
    levels: Levels,
) -> Tensor:
    """
    Boxes of the candidates.

    Args:
        candidates (Candidates): P of them.
        raw_ltrb (list[Tensor]): L maps (N, 4, Hi, Wi) from the head.
        levels (Levels): of the maps.

    Returns:
        Tensor: (P, 4) float32 xyxy in pixels of the padded batch, not clipped.
    """
    feature_sizes = [(x.shape[2], x.shape[3]) for x in raw_ltrb]
    locations = torch.cat(levels.compute_locations(feature_sizes, raw_ltrb[0].device))
    raw = flatten_levels(raw_ltrb)[candidates.image_idxs, candidates.location_idxs]
    ltrb = levels.activate(raw, candidates.level_idxs)
    return decode_ltrb(locations[candidates.location_idxs], ltrb)


@torch.no_grad()
def suppress(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    image_size: tuple[int, int],
    nms_thresh: float,
    max_detections: int,
) -> Instances:
    """
    Clip to the image, drop empty boxes, NMS within each class, keep the best.

    Clipping comes first: class-wise NMS shifts the classes apart by the largest coordinate, and
    boxes with negative ones would reach into another class.

    Args:
        boxes (Tensor): (P, 4) xyxy of one image.
        scores, classes (Tensor): (P,).
        image_size (tuple[int, int]): height and width without padding.
        nms_thresh (float): a box is dropped if its IoU with a better one of its class is higher.
        max_detections (int): at most so many.

    Returns:
        Instances: ``pred_boxes``, ``scores``, ``pred_classes``, sorted by descending score.
    """
    pred_boxes = Boxes(boxes)
    pred_boxes.clip(image_size)
    result = Instances(image_size, pred_boxes=pred_boxes, scores=scores, pred_classes=classes)
    result = result[pred_boxes.nonempty().nonzero().squeeze(1)]
    return result[_best_after_nms(result, nms_thresh, max_detections)]


def _best_after_nms(instances: Instances, nms_thresh: float, max_detections: int) -> Tensor:
    """
    Indices of the best that NMS keeps, best first.

    Whether a box is kept depends on better ones alone, so NMS looks at more of the worse ones only
    as long as it has not kept enough.
    """
    by_score = instances.scores.argsort(descending=True, stable=True)
    num_seen = _NMS_SEES_FIRST * max_detections
    while True:
        seen = by_score[:num_seen]
        boxes, scores = instances.pred_boxes.tensor[seen], instances.scores[seen]
        keep = batched_nms(boxes, scores, instances.pred_classes[seen], nms_thresh)
        if len(keep) >= max_detections or len(seen) == len(by_score):
            return seen[keep[:max_detections]]
        num_seen *= 4
