"""
Candidates for detections: locations and classes above the threshold, and their boxes.

N = images, K = classes, L = levels, R = locations of an image, P = candidates over all images.
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

# From class scores and qualities (None where there are none), both from 0 to 1 and of shapes that
# can be broadcast, to the scores that candidates are ranked by and detections have.
ScoreFunction = Callable[[Tensor, Tensor | None], Tensor]


class Selection(NamedTuple):
    """
    (location, class) pairs that may become detections, image by image.

    Attributes:
        image_idxs (Tensor): (P,) int64.
        level_idxs (Tensor): (P,) int64.
        location_idxs (Tensor): (P,) int64, 0 <= index < R.
        classes (Tensor): (P,) int64, 0 <= class < K.
        scores (Tensor): (P,) float32.
    """

    image_idxs: Tensor
    level_idxs: Tensor
    location_idxs: Tensor
    classes: Tensor
    scores: Tensor

    def at(self, index: Tensor) -> "Selection":
        """Select some of the pairs."""
        return Selection(*(x[index] for x in self))


@dataclass(frozen=True)
class Candidates:
    """
    Boxes that may become detections. All that is known of one survives suppression with it.

    Attributes:
        image_idxs, level_idxs, location_idxs, classes, scores (Tensor): see ``Selection``.
        boxes (Tensor): (P, 4) float32 xyxy in pixels of the padded batch.
        fields (dict[str, Tensor]): (P, ...) anything else by name; detections get these fields too.
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

    def split_images(self, num_images: int) -> list["Candidates"]:
        """Split into those of each image; they must come image by image."""
        if num_images == 1:
            return [self]
        # Where the next image starts is looked up once for all.
        later = torch.arange(1, num_images, device=self.image_idxs.device)
        starts = torch.searchsorted(self.image_idxs, later).tolist()
        ends = [*starts, len(self)]
        return [self[a:b] for a, b in zip([0, *starts], ends, strict=True)]

    def to_instances(self, image_size: tuple[int, int]) -> Instances:
        """Make the Instances of one image: ``pred_boxes``, ``scores``, ``pred_classes``, fields."""
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
    Select all (location, class) pairs whose score is above a threshold.

    A location may be selected for several classes. The threshold is compared in logit space, so
    that the sigmoid is taken of survivors only. A score may lie below the threshold of the class
    score, and lies above the root of the threshold of the product. Without quality the score is the
    class score itself, and always above the threshold.

    Args:
        cls_logits (list[Tensor]): L maps (N, K, Hi, Wi).
        quality_logits (list[Tensor] | None): L maps (N, 1, Hi, Wi); None: there is no quality.
        score_thresh (float): 0 <= threshold < 1; only what is higher is kept.
        thresh_with_quality (bool): compare class score times quality, and not the class score.
        score_function (Callable): see ``ScoreFunction``.

    Returns:
        Selection: image by image, locations in their order. Where a logit is NaN it is selected.
    """
    # One nonzero of all levels and images together; the host has waited for no GPU before it.
    logits = flatten_levels(cls_logits)  # (N, R, K)
    quality = None if quality_logits is None else flatten_levels(quality_logits)  # (N, R, 1)
    logit_thresh = logit_threshold(score_thresh, quality if thresh_with_quality else None)
    # What is not at most the threshold: a NaN is selected too, so that a warning can count it.
    is_above = (logits <= logit_thresh).logical_not_()  # (N, R, K)
    image_idxs, location_idxs, classes = is_above.nonzero().unbind(1)  # (P,) each
    class_scores = logits[image_idxs, location_idxs, classes].float().sigmoid()  # (P,)
    at_candidates = None if quality is None else quality[image_idxs, location_idxs, 0]  # (P,)
    scores = score_function(
        class_scores, None if at_candidates is None else at_candidates.float().sigmoid()
    )
    level_ends = list(accumulate(x.shape[2] * x.shape[3] for x in cls_logits))
    level_idxs = torch.bucketize(location_idxs, constant_on(level_ends, logits.device), right=True)
    return Selection(image_idxs, level_idxs, location_idxs, classes, scores.float())


@torch.no_grad()
def best_candidates(selection: Selection, num_levels: int, topk_candidates: int) -> Tensor:
    """
    Find the best of each image and level.

    Args:
        selection (Selection): P pairs. A score that is NaN or infinite ranks first; one of those
            with a minus sign ranks last.
        num_levels (int): L.
        topk_candidates (int): at most that many of each image and level.

    Returns:
        Tensor: (T,) int64 indices into the selection: image by image, level by level, best first.
    """
    groups = selection.image_idxs * num_levels + selection.level_idxs
    return _best_of_groups(selection.scores, groups, topk_candidates)


def logit_threshold(score_thresh: float, quality_logits: Tensor | None) -> Tensor | float:
    """
    Compute what a class logit must be above.

    Args:
        score_thresh (float): of the class score, or with quality logits of its product with the
            quality; 0 <= threshold < 1.
        quality_logits (Tensor | None): of any shape.

    Returns:
        Tensor | float: of the shape of the quality logits, NaN where they are.
    """
    if quality_logits is not None:
        # p q > t where p > t / q. Where q <= t that is 1 or more: no logit is above infinity.
        return (score_thresh / quality_logits.float().sigmoid()).clamp(max=1).logit()
    return math.log(score_thresh / (1 - score_thresh)) if score_thresh > 0 else -math.inf


def _best_of_groups(scores: Tensor, groups: Tensor, k: int) -> Tensor:
    """
    Find the k best of each group, ordered by group, then by descending score, then by index.

    Args:
        scores (Tensor): (P,) float32.
        groups (Tensor): (P,) int64.
        k (int): how many of a group are kept at most.

    Returns:
        Tensor: int64 indices.
    """
    # The bits of floats order as the floats do, those of negative ones in reverse: one sort of
    # integers does for groups and scores.
    bits = scores.view(torch.int32)  # (P,)
    ranks = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    order = ((groups << 32) - ranks).argsort(stable=True)  # (P,)
    groups = groups[order]
    # Place in its group: index less the index of the group's first.
    place = torch.arange(len(order), device=order.device) - torch.searchsorted(groups, groups)
    return order[place < k]


@torch.no_grad()
def decode_candidates(
    selection: Selection,
    raw_ltrb: Tensor,
    feature_sizes: Sequence[tuple[int, int]],
    levels: Levels,
) -> Tensor:
    """
    Compute the boxes of selected locations.

    Args:
        selection (Selection): T pairs.
        raw_ltrb (Tensor): (T, 4) what the head predicts at their locations.
        feature_sizes (list[tuple[int, int]]): (Hi, Wi) of each level.
        levels (Levels): of the maps.

    Returns:
        Tensor: (T, 4) float32 xyxy in pixels of the padded batch, not clipped.
    """
    locations = torch.cat(levels.compute_locations(feature_sizes, raw_ltrb.device))  # (R, 2)
    ltrb = levels.activate(raw_ltrb, selection.level_idxs)  # (T, 4)
    return decode_ltrb(locations[selection.location_idxs], ltrb)
