"""
Candidates for detections: the (location, class) pairs above the score threshold, and their boxes.

N = images, K = classes, L = levels, R = locations of an image over all levels, Hi x Wi = cells of
level i, P = candidates of the batch, T = candidates that the top-k of each level keeps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from .levels import Levels, constant_on, decode_ltrb, flatten_levels

__all__ = [
    "Candidates",
    "ScoreFunction",
    "Selection",
    "best_candidates",
    "decode_candidates",
    "logit_threshold",
    "threshold_candidates",
]

# A function that computes the scores of detections, by which candidates are also ranked. Its
# arguments are class scores and qualities (None if the head predicts no quality). Both are from 0
# to 1, and their shapes can be broadcast.
ScoreFunction = Callable[[Tensor, Tensor | None], Tensor]


class Selection(NamedTuple):
    """
    The (location, class) pairs that may become detections, image by image.

    Attributes:
        image_idxs (Tensor): (P,) int64, image of each pair.
        level_idxs (Tensor): (P,) int64, level of its location.
        location_idxs (Tensor): (P,) int64, index of its location in the image, 0 <= index < R.
        classes (Tensor): (P,) int64, its class, 0 <= class < K.
        scores (Tensor): (P,) float32, its score.
    """

    image_idxs: Tensor
    level_idxs: Tensor
    location_idxs: Tensor
    classes: Tensor
    scores: Tensor

    def at(self, index: Tensor) -> "Selection":
        """Select some of the pairs, by indices or by a mask."""
        return Selection(*(x[index] for x in self))


@dataclass(frozen=True)
class Candidates:
    """
    Boxes that may become detections, with all their data; an index selects some of the boxes.

    Attributes:
        image_idxs (Tensor): (P,) int64, see ``Selection``.
        level_idxs (Tensor): (P,) int64, see ``Selection``.
        location_idxs (Tensor): (P,) int64, see ``Selection``.
        classes (Tensor): (P,) int64, see ``Selection``.
        scores (Tensor): (P,) float32, see ``Selection``.
        boxes (Tensor): (P, 4) float32 xyxy in pixels of the padded batch.
        fields (dict[str, Tensor]): Other values (P, ...) by name, which become fields of the
            detections.
    """

    image_idxs: Tensor
    level_idxs: Tensor
    location_idxs: Tensor
    classes: Tensor
    scores: Tensor
    boxes: Tensor
    fields: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor | slice) -> "Candidates":
        return Candidates(
            self.image_idxs[index],
            self.level_idxs[index],
            self.location_idxs[index],
            self.classes[index],
            self.scores[index],
            self.boxes[index],
            {name: x[index] for name, x in self.fields.items()},
        )

    @classmethod
    def cat(cls, parts: Sequence["Candidates"]) -> "Candidates":
        """
        Join candidates that have the same fields.

        Args:
            parts (list[Candidates]): At least one.
        """
        return cls(
            torch.cat([x.image_idxs for x in parts]),
            torch.cat([x.level_idxs for x in parts]),
            torch.cat([x.location_idxs for x in parts]),
            torch.cat([x.classes for x in parts]),
            torch.cat([x.scores for x in parts]),
            torch.cat([x.boxes for x in parts]),
            {name: torch.cat([x.fields[name] for x in parts]) for name in parts[0].fields},
        )

    def split_images(self, num_images: int) -> list["Candidates"]:
        """Split these candidates, which must be sorted by image, into those of each image."""
        if num_images == 1:
            return [self]
        # One lookup, and one copy to the host, for all images.
        later_images = torch.arange(1, num_images, device=self.image_idxs.device)  # (N - 1,)
        starts = torch.searchsorted(self.image_idxs, later_images).tolist()  # N - 1 numbers
        ends = [*starts, len(self)]
        return [self[start:end] for start, end in zip([0, *starts], ends, strict=True)]

    def to_instances(self, image_size: tuple[int, int]) -> Instances:
        """
        Convert the candidates of one image to Instances.

        The instances have ``pred_boxes``, ``scores``, ``pred_classes`` and those of ``fields``.

        Args:
            image_size (tuple[int, int]): Height and width without padding.
        """
        return Instances(
            image_size,
            pred_boxes=Boxes(self.boxes),
            scores=self.scores,
            pred_classes=self.classes,
            **self.fields,
        )


@torch.no_grad()
def threshold_candidates(
    cls_logits: Sequence[Tensor],
    quality_logits: Sequence[Tensor] | None,
    score_thresh: float,
    thresh_with_quality: bool,
    score_function: ScoreFunction,
) -> Selection:
    """
    Select all (location, class) pairs above a threshold.

    A location may be selected for several classes.

    The threshold is a minimum of the class score. With ``thresh_with_quality``, it is a minimum of
    class score * quality. It is not applied to the result of ``score_function``. For example, with
    the default function, sqrt(class score * quality):

    - Without ``thresh_with_quality``, a returned score can be below the threshold.
    - With ``thresh_with_quality``, a returned score is above the square root of the threshold.

    The threshold is converted to logits, so that the sigmoid is only computed for selected pairs.

    Args:
        cls_logits (list[Tensor]): L maps (N, K, Hi, Wi).
        quality_logits (list[Tensor] | None): L maps (N, 1, Hi, Wi); None if there is no quality.
        score_thresh (float): Pairs are selected above this value, 0 <= threshold < 1.
        thresh_with_quality (bool): Apply the threshold to class score * quality.
        score_function (Callable): Computes the scores, see ``ScoreFunction``.

    Returns:
        Selection: The pairs, sorted by image and location. Pairs with a NaN logit are selected.
    """
    # A single nonzero for all levels and images: only here the host waits for a GPU.
    logits = flatten_levels(cls_logits)  # (N, R, K)
    quality = None if quality_logits is None else flatten_levels(quality_logits)  # (N, R, 1)
    logit_thresh = logit_threshold(  # (N, R, 1) or a number
        score_thresh, quality if thresh_with_quality else None
    )
    # "Not <=" instead of ">" also selects NaN, so that a warning can count the NaN scores.
    is_above = (logits <= logit_thresh).logical_not_()  # (N, R, K)
    image_idxs, location_idxs, classes = is_above.nonzero().unbind(1)  # (P,) each
    class_scores = logits[image_idxs, location_idxs, classes].float().sigmoid()  # (P,)
    quality_scores = None
    if quality is not None:
        quality_scores = quality[image_idxs, location_idxs, 0].float().sigmoid()  # (P,)
    scores = score_function(class_scores, quality_scores)  # (P,)
    level_ends = list(accumulate(x.shape[2] * x.shape[3] for x in cls_logits))
    ends = constant_on(level_ends, logits.device)  # (L,)
    level_idxs = torch.bucketize(location_idxs, ends, right=True)  # (P,)
    return Selection(image_idxs, level_idxs, location_idxs, classes, scores.float())


@torch.no_grad()
def best_candidates(selection: Selection, num_levels: int, topk_candidates: int) -> Tensor:
    """
    Find the candidates with the highest scores in each image and level.

    Args:
        selection (Selection): P candidates. Scores of NaN or infinity rank first; those with the
            sign bit set rank last.
        num_levels (int): L.
        topk_candidates (int): Maximum number of candidates of each image and level.

    Returns:
        Tensor: (T,) int64 indices into the selection, sorted by image, then by level, then by
        descending score.
    """
    groups = selection.image_idxs * num_levels + selection.level_idxs  # (P,)
    return _best_of_groups(selection.scores, groups, topk_candidates)  # (T,)


def logit_threshold(score_thresh: float, quality_logits: Tensor | None) -> Tensor | float:
    """
    Convert a threshold on scores to a threshold on class logits.

    Args:
        score_thresh (float): Threshold on the class score, or with quality logits on class score *
            quality; 0 <= threshold < 1.
        quality_logits (Tensor | None): Quality logits of any shape.

    Returns:
        Tensor | float: The value that a class logit must be above. With quality logits, it is a
        tensor of the same shape, which is NaN where the quality logits are NaN.
    """
    if quality_logits is not None:
        # With class score p, quality q and threshold t: p * q > t if and only if p > t / q. For
        # q <= t this is 1 or more, which becomes infinity: no logit is above it.
        return (score_thresh / quality_logits.float().sigmoid()).clamp(max=1).logit()
    return math.log(score_thresh / (1 - score_thresh)) if score_thresh > 0 else -math.inf


def _best_of_groups(scores: Tensor, groups: Tensor, k: int) -> Tensor:
    """
    Find the k highest scores of each group.

    Args:
        scores (Tensor): (P,) float32.
        groups (Tensor): (P,) int64 group of each score.
        k (int): Maximum number of scores of a group.

    Returns:
        Tensor: (T,) int64 indices, sorted by group, then by descending score, then by index.
    """
    if torch.jit.is_tracing():  # torch.jit.trace cannot trace view(dtype)
        by_score = scores.argsort(descending=True, stable=True)  # (P,)
        order = by_score[groups[by_score].argsort(stable=True)]  # (P,)
    else:
        # The bits of non-negative floats, read as integers, are in the order of the floats; those
        # of negative floats are in reverse order. So one sort of integers sorts by group and score.
        bits = scores.view(torch.int32)  # (P,)
        score_keys = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # (P,)
        order = ((groups << 32) - score_keys).argsort(stable=True)  # (P,)
    groups = groups[order]  # (P,)
    # The rank in a group is the index minus the index of the first element of the group.
    group_starts = torch.searchsorted(groups, groups)  # (P,)
    # A trace would have len(order) as a constant.
    ranks = torch.arange(order.shape[0], device=order.device) - group_starts  # (P,)
    return order[ranks < k]  # (T,)


@torch.no_grad()
def decode_candidates(
    selection: Selection,
    raw_ltrb: Tensor,
    feature_sizes: Sequence[tuple[int, int]],
    levels: Levels,
) -> Tensor:
    """
    Compute the boxes of selected candidates.

    Args:
        selection (Selection): T candidates.
        raw_ltrb (Tensor): (T, 4) raw outputs of the head at the candidates' locations.
        feature_sizes (list[tuple[int, int]]): (Hi, Wi) of each level.
        levels (Levels): The levels of the head.

    Returns:
        Tensor: (T, 4) float32 xyxy in pixels of the padded batch, not clipped.
    """
    locations = torch.cat(levels.compute_locations(feature_sizes, raw_ltrb.device))  # (R, 2)
    ltrb = levels.activate(raw_ltrb, selection.level_idxs)  # (T, 4)
    return decode_ltrb(locations[selection.location_idxs], ltrb)
