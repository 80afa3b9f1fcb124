"""Count how often several boxes compete for one location, and which boxes get no location."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.structures import Boxes
from matplotlib.axes import Axes
from torch import Tensor

from fcos_d2 import FCOSAssigner

from .annotations import AnnotatedImage, feature_sizes, to_instances
from .style import BLUE, INK, ORANGE, RED, write_figure

__all__ = ["EligiblePairs", "compare_rules", "draw_ambiguity", "find_eligible_pairs"]

_BOXES_PER_BATCH = 128


class EligiblePairs(NamedTuple):
    """
    All C (location, box) pairs in which the rule allows the location to predict the box.

    Attributes:
        flat_location_idxs (Tensor): (C,) image * R + location in the image.
        gt_idxs (Tensor): (C,) box, counted over all images.
        ltrb (Tensor): (C, 4) distances in pixels.
        level_idxs (Tensor): (C,) level of the location.
    """

    flat_location_idxs: Tensor
    gt_idxs: Tensor
    ltrb: Tensor
    level_idxs: Tensor


def find_eligible_pairs(
    assigner: FCOSAssigner, images: Sequence[AnnotatedImage], sizes: Sequence[tuple[int, int]]
) -> EligiblePairs:
    """
    Find all pairs by assigning each box in an image without other boxes, so that none can win.

    Args:
        assigner (FCOSAssigner): The rule.
        images (list[AnnotatedImage]): Images that are padded to the same size.
        sizes (list[tuple[int, int]]): (Hi, Wi) of each level at that size.
    """
    image_of_box = torch.tensor([i for i, x in enumerate(images) for _ in x.boxes])
    single_boxes = [
        to_instances(x.size, box[None], k[None])
        for x in images
        for box, k in zip(x.boxes, x.classes, strict=True)
    ]
    targets = assigner(single_boxes, sizes)
    flat_idxs = image_of_box[targets.gt_idxs] * targets.num_locations + targets.location_idxs
    pairs = (flat_idxs, targets.gt_idxs, targets.ltrb, targets.level_idxs)
    return EligiblePairs(*(x[targets.is_positive] for x in pairs))


def compare_rules(
    rules: dict[str, FCOSAssigner], images: Sequence[AnnotatedImage]
) -> dict[str, dict[str, float]]:
    """Measure each rule on these images, see ``_measure``."""
    return {name: _measure(assigner, images) for name, assigner in rules.items()}


def _measure(assigner: FCOSAssigner, images: Sequence[AnnotatedImage]) -> dict[str, float]:
    """
    Measure the ambiguity and the best possible recall of a rule.

    Returns:
        dict[str, float]: Of all positive locations, the percentage that several boxes compete for
        ("ambiguous") and that boxes of several classes compete for ("ambiguous_classes"). Of all
        boxes, the percentage that gets a location ("recall"), also if the larger box won instead
        of the smaller one. And the number of positives per box.
    """
    counts = dict.fromkeys(("positives", "ambiguous", "classes", "boxes", "small", "large"), 0)
    for batch in _batches(images):
        _count(assigner, batch, counts)
    return {
        "ambiguous": 100 * counts["ambiguous"] / counts["positives"],
        "ambiguous_classes": 100 * counts["classes"] / counts["positives"],
        "recall": 100 * counts["small"] / counts["boxes"],
        "recall_if_the_larger_won": 100 * counts["large"] / counts["boxes"],
        "positives_per_box": counts["positives"] / counts["boxes"],
    }


def _batches(images: Sequence[AnnotatedImage]) -> Iterator[list[AnnotatedImage]]:
    """Group images of similar size that together have at most ``_BOXES_PER_BATCH`` boxes."""
    batch: list[AnnotatedImage] = []
    for image in sorted((x for x in images if len(x.boxes)), key=lambda x: x.size):
        if batch and sum(len(x.boxes) for x in batch) >= _BOXES_PER_BATCH:
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def _count(
    assigner: FCOSAssigner, images: Sequence[AnnotatedImage], counts: dict[str, int]
) -> None:
    """Add what ``_measure`` divides, for one batch of images."""
    height, width = (max(x.size[axis] for x in images) for axis in (0, 1))
    sizes = feature_sizes((height, width), assigner.levels.strides)
    pairs = find_eligible_pairs(assigner, images, sizes)
    boxes = torch.cat([x.boxes for x in images])
    classes = torch.cat([x.classes for x in images])
    locations, inverse, num_boxes = pairs.flat_location_idxs.unique(
        return_inverse=True, return_counts=True
    )

    def reduce_per_location(values: Tensor, how: str) -> Tensor:
        """Reduce the values of pairs to one for each location."""
        reduced = values.new_zeros(len(locations))
        return reduced.scatter_reduce(0, inverse, values, how, include_self=False)

    pair_classes = classes[pairs.gt_idxs]
    has_two_classes = reduce_per_location(pair_classes, "amin") != reduce_per_location(
        pair_classes, "amax"
    )
    order = Boxes(boxes).area().argsort(stable=True)
    largest = order[reduce_per_location(order.argsort()[pairs.gt_idxs], "amax")]
    targets = assigner([to_instances(*x) for x in images], sizes)
    assert targets.is_positive.sum() == len(locations)
    counts["positives"] += len(locations)
    counts["ambiguous"] += int((num_boxes > 1).sum())
    counts["classes"] += int(has_two_classes.sum())
    counts["boxes"] += len(boxes)
    counts["small"] += len(targets.gt_idxs[targets.is_positive].unique())
    counts["large"] += len(largest.unique())


def draw_ambiguity(path: Path, table: dict[str, dict[str, float]]) -> None:
    """Draw the ambiguous locations and the boxes without a location, from ``compare_rules``."""
    names, places = list(table), range(len(table))
    with write_figure(path, 2.5, 1, 2, width_ratios=[1.15, 1]) as (_, axes):
        shares = [table[name]["ambiguous"] for name in names]
        _draw_bars(axes[0], places, shares, ORANGE, "ambiguous")
        classes = [table[name]["ambiguous_classes"] for name in names]
        axes[0].barh(places, classes, 0.62, color=RED, label="of different classes")
        axes[0].set(yticks=list(places), yticklabels=names)
        axes[0].set_title("ambiguous, % of positives")
        axes[0].legend(loc="lower right", fontsize=9.5)
        _draw_bars(axes[1], places, [100 - table[name]["recall"] for name in names], BLUE, "")
        axes[1].set(yticks=list(places), yticklabels=[])
        axes[1].set_title("boxes without a location, %")
        for axis in axes:
            axis.invert_yaxis()
            axis.grid(axis="y", visible=False)
            axis.tick_params(axis="y", length=0)


def _draw_bars(axes: Axes, places: range, values: Sequence[float], color: str, label: str) -> None:
    """Draw horizontal bars with their values."""
    axes.barh(places, values, 0.62, color=color, label=label)
    axes.set_xlim(0, 1.2 * max(values))
    for place, value in zip(places, values, strict=True):
        axes.text(value, place, f" {value:.2f}", va="center", color=INK)
