"""Draw what a location regresses, and which location predicts which box."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from fcos_d2 import FCOSAssigner
from fcos_d2.modeling.levels import Levels, compute_locations, encode_ltrb

from .ambiguity import find_eligible_pairs
from .annotations import AnnotatedImage, demo_levels, feature_sizes, load_scene, to_instances
from .style import GRAY, INK, ORANGE, OWNER_COLORS, RED, TEAL, add_box, show_image, write_figure

__all__ = ["draw_ltrb", "draw_positives"]

_LTRB_SCENE, _LTRB_CELL, _LTRB_LEVEL = ("val", 285), (7, 9), 1  # (column, row) of that level
_POSITIVES_SCENE = ("val", 74)
_SHOWN_LEVELS = 3  # the fourth has no positives: no shape is longer than 120 pixels


def draw_ltrb(path: Path) -> None:
    """Draw a location inside one box, and a location inside two boxes."""
    image, annotated = load_scene(*_LTRB_SCENE)
    strides, borders = demo_levels()
    sizes = feature_sizes(annotated.size, strides)
    stride, (rows, columns) = strides[_LTRB_LEVEL], sizes[_LTRB_LEVEL]
    locations = compute_locations([(rows, columns)], [stride])[0]
    location = locations[_LTRB_CELL[1] * columns + _LTRB_CELL[0]]
    inside = (encode_ltrb(location, annotated.boxes) > 0).all(dim=1).nonzero().squeeze(1)
    by_area = inside[Boxes(annotated.boxes[inside]).area().argsort()]
    small, large = annotated.boxes[by_area]
    matched = FCOSAssigner(
        levels=Levels(strides), sizes_of_interest=borders, center_sampling_radius=0
    )([to_instances(*annotated)], sizes).matched_idxs()
    first = sizes[0][0] * sizes[0][1]  # the locations of the finer level come first
    assert matched[0, first + _LTRB_CELL[1] * columns + _LTRB_CELL[0]] == by_area[0]

    with write_figure(path, 4.3, 1, 2) as (_, axes):
        for axis in axes:
            show_image(axis, image, fade=0.45)
            axis.scatter(*locations.T, s=5, color=GRAY, linewidths=0)
            x1, y1, x2, y2 = large.tolist()
            axis.set(xlim=(x1 - 14, x2 + 14), ylim=(y2 + 14, y1 - 14))
        axes[0].set_title("A location regresses l, t, r, b")
        add_box(axes[0], large, ORANGE)
        _draw_arrows(axes[0], location, large, ORANGE)
        axes[1].set_title("Inside two boxes: the smaller one wins")
        add_box(axes[1], large, ORANGE, linestyle="--")
        add_box(axes[1], small, TEAL)
        _draw_arrows(axes[1], location, small, TEAL)


def _draw_arrows(axes: Axes, location: Tensor, box: Tensor, color: str) -> None:
    """Draw the four distances, each with its length in pixels."""
    x, y = location.tolist()
    ltrb = encode_ltrb(location, box).tolist()
    directions = ((-1, 0), (0, -1), (1, 0), (0, 1))
    for name, distance, (dx, dy) in zip("ltrb", ltrb, directions, strict=True):
        end = (x + dx * distance, y + dy * distance)
        axes.annotate(
            "",
            end,
            (x, y),
            arrowprops={
                "arrowstyle": "-|>",
                "color": INK,
                "linewidth": 1.8,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )
        middle = (x + dx * distance * 0.55, y + dy * distance * 0.55 - 6 * abs(dx))
        axes.text(
            *middle,
            f"{name} = {distance:g}",
            ha="center",
            va="center",
            fontsize=10.5,
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": color},
        )
    axes.scatter([x], [y], s=55, color=RED, edgecolors="white", linewidths=1.5, zorder=5)


def draw_positives(path: Path) -> None:
    """Draw the positives of each level in the color of their box; dots show where boxes compete."""
    image, annotated = load_scene(*_POSITIVES_SCENE)
    strides, borders = demo_levels()
    with write_figure(path, 6.6, 2, _SHOWN_LEVELS) as (_, axes):
        for row, radius, name in zip(
            axes, (0.0, 1.5), ("whole box", "center sampling, 1.5"), strict=True
        ):
            assigner = FCOSAssigner(
                levels=Levels(strides), sizes_of_interest=borders, center_sampling_radius=radius
            )
            _paint_levels(row, assigner, image, annotated)
            row[0].set_ylabel(name)
        for axis, stride, (low, high) in zip(axes[0], strides, assigner.size_ranges, strict=False):
            axis.set_title(f"stride {stride}: {low:g} to {high:g} px", fontsize=10.5)


def _paint_levels(
    row: Sequence[Axes],
    assigner: FCOSAssigner,
    image: NDArray[np.uint8],
    annotated: AnnotatedImage,
) -> None:
    """Paint the positives of one scene, with one picture for each level."""
    sizes = feature_sizes(annotated.size, assigner.levels.strides)
    targets = assigner([to_instances(*annotated)], sizes)
    matched = targets.matched_idxs()[0]
    pairs = find_eligible_pairs(assigner, [annotated], sizes)
    location_idxs, num_boxes = pairs.flat_location_idxs.unique(return_counts=True)
    is_ambiguous = torch.zeros_like(matched, dtype=torch.bool)
    is_ambiguous[location_idxs] = num_boxes > 1
    counts = [height * width for height, width in sizes]
    locations = compute_locations(sizes, assigner.levels.strides)
    for axis, stride, xys, owners, ambiguous in zip(
        row,
        assigner.levels.strides,
        locations,
        matched.split(counts),
        is_ambiguous.split(counts),
        strict=False,
    ):
        show_image(axis, image, fade=0.72)
        for (x, y), owner in zip(xys.tolist(), owners.tolist(), strict=True):
            if owner >= 0:
                corner = (x - stride / 2, y - stride / 2)
                color = OWNER_COLORS[owner % len(OWNER_COLORS)]
                axis.add_patch(
                    Rectangle(
                        corner, stride, stride, facecolor=color, edgecolor="white", linewidth=0.3
                    )
                )
        xs, ys = xys[ambiguous].T
        axis.scatter(xs, ys, s=7, color="black", linewidths=0, zorder=5)
        for owner, box in enumerate(annotated.boxes):
            add_box(axis, box, OWNER_COLORS[owner % len(OWNER_COLORS)], linewidth=1.1)
