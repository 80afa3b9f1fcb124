"""Draw center-ness and its lower bound, the scales of the regression, and the box losses."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fcos_d2 import FCOSAssigner
from fcos_d2.modeling.levels import Levels, activate_ltrb, encode_ltrb
from fcos_d2.modeling.losses.box import box_loss
from fcos_d2.modeling.losses.quality import centerness_targets

from .ambiguity import find_eligible_pairs
from .annotations import AnnotatedImage, demo_levels, feature_sizes, to_instances
from .style import BLUE, GRAY, INK, LEVEL_COLORS, ORANGE, RED, add_box, write_figure

__all__ = [
    "compute_floors",
    "draw_box_losses",
    "draw_centerness",
    "draw_floor",
    "draw_scales",
    "measure_levels",
]

_PHASES = 8  # positions of a box relative to the cells, along each axis
_PERCENTILES = (5, 25, 50, 75, 95)


def draw_centerness(path: Path) -> None:
    """Draw the center-ness target of two boxes, and the square of center sampling."""
    stride, boxes = 16, torch.tensor([[0.0, 0, 96, 96], [0, 0, 192, 96]])
    with write_figure(path, 2.7, 1, 2, width_ratios=[1, 2]) as (figure, axes):
        for axis, box, title in zip(axes, boxes, ("6 x 6 strides", "12 x 6 strides"), strict=True):
            width, height = box[2:].int().tolist()
            ys, xs = torch.meshgrid(
                torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"
            )
            target = centerness_targets(encode_ltrb(torch.stack([xs, ys], dim=-1), box))
            heat = axis.imshow(
                target,
                extent=(0, width, height, 0),
                cmap="magma",
                vmin=0,
                vmax=1,
                interpolation="bilinear",
            )
            lines = axis.contour(xs, ys, target, [0.25, 0.5, 0.75], colors="white", linewidths=0.8)
            axis.clabel(lines, fontsize=8.5, fmt="%g")
            center = torch.tensor([width, height]) / 2
            add_box(axis, [*(center - 1.5 * stride), *(center + 1.5 * stride)], "#5fe3d2")
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"box of {title}")
            axis.grid(False)
            axis.spines[:].set_visible(False)
        figure.colorbar(heat, ax=axes, shrink=0.9, aspect=14, label="center-ness")


def _entropy(targets: Tensor) -> Tensor:
    """Compute the lowest cross entropy against soft targets, which is their entropy."""
    return F.binary_cross_entropy(targets, targets, reduction="none")


def _floor_of_boxes(width: float, height: float, radius: float) -> float:
    """Compute the mean entropy of the targets of boxes of this size in strides."""
    stride, phases = 16, (torch.arange(_PHASES) + 0.5) / _PHASES
    corners = torch.cartesian_prod(phases, phases)
    boxes = torch.cat([corners, corners + torch.tensor([width, height])], dim=1) * stride
    images = [AnnotatedImage((0, 0), box[None], torch.zeros(1, dtype=torch.int64)) for box in boxes]
    assigner = FCOSAssigner(
        levels=Levels([stride]), sizes_of_interest=[], center_sampling_radius=radius
    )
    pairs = find_eligible_pairs(assigner, images, [(int(height) + 2, int(width) + 2)])
    return float(_entropy(centerness_targets(pairs.ltrb)).mean())


def compute_floors(sizes: Sequence[float]) -> dict[str, list[float]]:
    """Compute the lower bound of the center-ness loss for squares of these sizes in strides."""
    return {
        name: [_floor_of_boxes(size, size, radius) for size in sizes]
        for name, radius in (("whole box", 0.0), ("center sampling, 1.5", 1.5))
    }


def draw_floor(path: Path, sizes: Sequence[float]) -> None:
    """Draw the lower bound of the center-ness loss against the size of the box."""
    floors = compute_floors(sizes)
    with write_figure(path, 3.0) as (_, axis):
        for (name, values), color in zip(floors.items(), (ORANGE, BLUE), strict=True):
            axis.plot(sizes, values, color=color, marker="o", markersize=4, label=name)
        axis.set(
            xlabel="side of a square box, in strides",
            ylabel="nats per positive",
            ylim=(0, 0.75),
            xlim=(0, max(sizes) + 0.5),
        )
        axis.set_title("Lower bound of the center-ness loss")
        axis.legend(loc="lower right")


def measure_levels(images: Sequence[AnnotatedImage]) -> tuple[list[Tensor], dict[str, float]]:
    """
    Measure the distances of all positives and the lower bound of their center-ness loss.

    Returns:
        (list[Tensor], dict[str, float]): (P_i, 4) ltrb in pixels for each level of the demo; the
        lower bound without ("whole_box") and with ("center_sampling") center sampling.
    """
    strides, borders = demo_levels()
    sizes = feature_sizes((max(x.size[0] for x in images), max(x.size[1] for x in images)), strides)
    floors = {}
    for name, radius in (("whole_box", 0.0), ("center_sampling", 1.5)):
        assigner = FCOSAssigner(
            levels=Levels(strides), sizes_of_interest=borders, center_sampling_radius=radius
        )
        parts = [
            assigner([to_instances(*x) for x in images[start : start + 64]], sizes)
            for start in range(0, len(images), 64)
        ]
        ltrb = torch.cat([x.ltrb[x.is_positive] for x in parts])
        level_idxs = torch.cat([x.level_idxs[x.is_positive] for x in parts])
        floors[name] = float(_entropy(centerness_targets(ltrb)).mean())
    return [ltrb[level_idxs == level] for level in range(len(strides))], floors


def draw_scales(path: Path, ltrb_per_level: Sequence[Tensor]) -> None:
    """Draw the two activations, and the distances of each level in pixels and in strides."""
    strides, _ = demo_levels()
    levels = [
        (stride, ltrb, color)
        for stride, ltrb, color in zip(strides, ltrb_per_level, LEVEL_COLORS, strict=True)
        if len(ltrb)
    ]
    with write_figure(path, 3.3, 1, 3, width_ratios=[1.25, 1, 1]) as (_, axes):
        raw = torch.linspace(-2, 6, 200)
        for stride, _, color in levels:
            axes[0].plot(raw, activate_ltrb(raw, stride, "relu"), color=color, label=f"{stride}")
        axes[0].plot(raw, activate_ltrb(raw, 1, "exp"), color=INK, linestyle="--", label="exp")
        axes[0].set(xlabel="s x", ylabel="pixels", ylim=(-3, 100), xlim=(-2, 6))
        axes[0].set_title("ReLU(s x) stride, exp(s x)")
        axes[0].legend(title="stride", loc="upper left", fontsize=9.5)
        for axis, unit in zip(axes[1:], ("pixels", "strides"), strict=True):
            for place, (stride, ltrb, color) in enumerate(levels):
                values = ltrb.flatten() / (stride if unit == "strides" else 1)
                marks = torch.quantile(values, torch.tensor(_PERCENTILES) / 100).tolist()
                axis.plot(marks[::4], [place, place], color=color, linewidth=2)
                axis.plot(marks[1:4:2], [place, place], color=color, linewidth=11)
                axis.plot(marks[2], place, color="white", marker="|", markersize=11, mew=2)
            axis.set(yticks=range(len(levels)), yticklabels=[f"stride {x[0]}" for x in levels])
            axis.set(xlabel=unit, ylim=(len(levels) - 0.5, -0.5))
            axis.set_xlim(left=0)
            axis.grid(axis="y", visible=False)
            axis.set_title(f"l, t, r, b in {unit}")
        axes[2].set_yticklabels([])


def draw_box_losses(path: Path) -> None:
    """Draw three box losses against IoU, for boxes of wrong size and for boxes in a wrong place."""
    side, near = 16.0, 0.05
    # The location is near the corner that all shifted boxes still contain.
    target = torch.tensor([side - near, side - near, near, near])
    shifts = torch.linspace(0, side - 2 * near, 400)[:, None]
    shifted = target + shifts * torch.tensor([-1.0, -1.0, 1.0, 1.0])
    shrunk = torch.full((400, 4), side / 2) * torch.linspace(1, 0.02, 400)[:, None]
    curves = (
        ("iou: -log(IoU)", "iou", shrunk, RED, "-"),
        ("linear_iou: 1 - IoU", "linear_iou", shrunk, BLUE, "-"),
        ("giou, box too small", "giou", shrunk, ORANGE, ":"),
        ("giou, box shifted along the diagonal", "giou", shifted, ORANGE, "-"),
    )
    with write_figure(path, 3.2, 1, 2, width_ratios=[2.4, 1]) as (_, (axis, sketch)):
        for label, name, predictions, color, line in curves:
            targets = (target if predictions is shifted else torch.full((4,), side / 2)).expand(
                400, 4
            )
            ious = 1 - box_loss(predictions, targets, "linear_iou")
            losses = box_loss(predictions, targets, name)
            axis.plot(ious, losses, color=color, linestyle=line, label=label)
        axis.set(xlabel="IoU", ylabel="loss", xlim=(0, 1), ylim=(0, 3))
        axis.set_title("Box losses")
        axis.legend(loc="upper right", fontsize=9.5)
        add_box(sketch, (0, 0, 10, 10), INK)
        add_box(sketch, (3, 3, 7, 7), ORANGE, linestyle=":")
        add_box(sketch, (0, 13, 10, 23), INK)
        add_box(sketch, (5, 18, 15, 28), ORANGE)
        add_box(sketch, (0, 13, 15, 28), GRAY, linestyle="--", linewidth=1.2)
        sketch.text(15.6, 28, "hull", va="bottom", color=GRAY)
        sketch.set(xlim=(-1, 20), ylim=(29, -1), aspect="equal")
        sketch.set_axis_off()
