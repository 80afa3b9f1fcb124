"""How often several boxes want one location, and whether every box gets one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.structures import Boxes
from torch import Tensor

from fcos_d2 import FCOSAssigner

from .annotations import AnnotatedImage, feature_sizes, to_instances
from .style import BLUE, INK, ORANGE, RED, write_figure

__all__ = ["Claims", "compare_rules", "draw_ambiguity", "find_claims"]

_BOXES_AT_A_TIME = 128


class Claims(NamedTuple):
    """Every (location, box) pair in which the box is allowed to have the location."""

    slots: Tensor  # (C,) image * R + location
    gt_idxs: Tensor  # (C,) box among those of all images
    ltrb: Tensor  # (C, 4) pixels
    level_idxs: Tensor  # (C,)


def find_claims(
    assigner: FCOSAssigner, images: Sequence[AnnotatedImage], sizes: Sequence[tuple[int, int]]
) -> Claims:
    """
    Ask the assigner about each box as if it were alone in its image: then no box can win over it.

    Args:
        assigner (FCOSAssigner): the rule.
        images (list): all padded to one size.
        sizes (list): (Hi, Wi) of each level at that size.
    """
    image_of_box = torch.tensor([i for i, x in enumerate(images) for _ in x.boxes])
    alone = [
        to_instances(x.size, box[None], k[None])
        for x in images
        for box, k in zip(x.boxes, x.classes, strict=True)
    ]
    targets = assigner(alone, sizes)
    where = targets.is_positive
    slots = image_of_box[targets.gt_idxs] * targets.num_locations + targets.location_idxs
    found = (targets.gt_idxs, targets.ltrb, targets.level_idxs)
    return Claims(slots[where], *(x[where] for x in found))


def compare_rules(
    rules: dict[str, FCOSAssigner], images: Sequence[AnnotatedImage]
) -> dict[str, dict[str, float]]:
    """For each rule, what ``_measure`` finds in these images, in per cent."""
    return {name: _measure(assigner, images) for name, assigner in rules.items()}


def _measure(assigner: FCOSAssigner, images: Sequence[AnnotatedImage]) -> dict[str, float]:
    """
    Of all locations that become positive, those that several boxes want ("ambiguous"), and that
    boxes of several classes want; of all boxes, those that get a location (best possible recall),
    by the rule that the smaller box wins, and by the opposite one.
    """
    counts = dict.fromkeys(("positives", "ambiguous", "classes", "boxes", "small", "large"), 0)
    images = sorted((x for x in images if len(x.boxes)), key=lambda x: x.size)
    start = 0
    while start < len(images):
        stop, num_boxes = start, 0
        while stop < len(images) and (stop == start or num_boxes < _BOXES_AT_A_TIME):
            num_boxes += len(images[stop].boxes)
            stop += 1
        _count(assigner, images[start:stop], counts)
        start = stop
    return {
        "ambiguous": 100 * counts["ambiguous"] / counts["positives"],
        "ambiguous_classes": 100 * counts["classes"] / counts["positives"],
        "recall": 100 * counts["small"] / counts["boxes"],
        "recall_if_the_larger_won": 100 * counts["large"] / counts["boxes"],
        "positives_per_box": counts["positives"] / counts["boxes"],
    }


def _count(
    assigner: FCOSAssigner, images: Sequence[AnnotatedImage], counts: dict[str, int]
) -> None:
    height, width = (max(x.size[axis] for x in images) for axis in (0, 1))
    sizes = feature_sizes((height, width), assigner.levels.strides)
    claims = find_claims(assigner, images, sizes)
    boxes = torch.cat([x.boxes for x in images])
    classes = torch.cat([x.classes for x in images])
    slots, inverse, num_claims = claims.slots.unique(return_inverse=True, return_counts=True)

    def extreme(values: Tensor, how: str) -> Tensor:
        found = values.new_zeros(len(slots))
        return found.scatter_reduce(0, inverse, values, how, include_self=False)

    claimed = classes[claims.gt_idxs]
    order = Boxes(boxes).area().argsort(stable=True)
    largest = order[extreme(order.argsort()[claims.gt_idxs], "amax")]
    targets = assigner([to_instances(*x) for x in images], sizes)
    assert targets.is_positive.sum() == len(slots)
    counts["positives"] += len(slots)
    counts["ambiguous"] += int((num_claims > 1).sum())
    counts["classes"] += int((extreme(claimed, "amin") != extreme(claimed, "amax")).sum())
    counts["boxes"] += len(boxes)
    counts["small"] += len(targets.gt_idxs[targets.is_positive].unique())
    counts["large"] += len(largest.unique())


def draw_ambiguity(path: Path, table: dict[str, dict[str, float]]) -> None:
    """What ``compare_rules`` returned: ambiguous locations, and boxes without a location."""
    names, places = list(table), range(len(table))
    with write_figure(path, 2.5, 1, 2, width_ratios=[1.15, 1]) as (_, axes):
        shares = [table[name]["ambiguous"] for name in names]
        _bars(axes[0], places, shares, ORANGE, "ambiguous")
        classes = [table[name]["ambiguous_classes"] for name in names]
        axes[0].barh(places, classes, 0.62, color=RED, label="of different classes")
        axes[0].set(yticks=list(places), yticklabels=names)
        axes[0].set_title("ambiguous, % of positives")
        axes[0].legend(loc="lower right", fontsize=9.5)
        _bars(axes[1], places, [100 - table[name]["recall"] for name in names], BLUE, "")
        axes[1].set(yticks=list(places), yticklabels=[])
        axes[1].set_title("boxes without a location, %")
        for axis in axes:
            axis.invert_yaxis()
            axis.grid(axis="y", visible=False)
            axis.tick_params(axis="y", length=0)


def _bars(axes: Any, places: range, values: Sequence[float], color: str, label: str) -> None:
    axes.barh(places, values, 0.62, color=color, label=label)
    axes.set_xlim(0, 1.2 * max(values))
    for place, value in zip(places, values, strict=True):
        axes.text(value, place, f" {value:.2f}", va="center", color=INK)
