"""Plots of the benchmark: cost against boxes, image area and classes."""

from pathlib import Path

import matplotlib
from benchmark import median_costs
from contest import Case

from fcos_d2.atomic_write import replacing

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogFormatter

__all__ = ["PLOTS", "draw_plots"]

# File name -> (label of the x axis, titles of its panels by group).
PLOTS = {
    "boxes": ("boxes an image", {"targets": "targets of the batch"}),
    "area": (
        "pixels of an image",
        {
            "area_targets": "targets",
            "area_losses": "losses, forward + backward",
            "area_selection": "selection, idle",
        },
    ),
    "classes": (
        "classes",
        {
            "classes_losses": "losses, forward + backward",
            "classes_selection": "selection + NMS, busy",
        },
    ),
}
_COLORS = {"fcos_d2": "tab:red", "detectron2": "tab:blue", "torchvision": "tab:green"}


def _in_short(size: float) -> str:
    return f"{size / 1e6:.2g} M" if size >= 1e5 else f"{size:g}"


def draw_plots(cases: list[Case], folder: Path, device: str) -> dict[str, Path]:
    """
    Args:
        cases (list[Case]): of one run.
        folder (Path): for the pictures, named by device and by what is on the x axis.
        device (str): "cpu" or "cuda".

    Returns:
        dict[str, Path]: name in PLOTS -> picture, for those whose groups were measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name, (label, panels) in PLOTS.items():
        costs = {group: median_costs(cases, group) for group in panels}
        if not all(costs.values()):
            continue
        figure, axes = plt.subplots(
            1, len(panels), figsize=(4.2 * len(panels), 3.4), squeeze=False, layout="constrained"
        )
        for axis, (group, title) in zip(axes[0], panels.items(), strict=True):
            for contestant, points in costs[group].items():
                color = _COLORS.get(contestant)
                axis.loglog(*zip(*points, strict=True), "o-", label=contestant, color=color)
            axis.set(title=title, xlabel=label, ylabel="ms")
            sizes = sorted({x for points in costs[group].values() for x, _ in points})
            axis.set_xticks(sizes, [_in_short(x) for x in sizes])
            axis.set_xticks([], minor=True)
            axis.yaxis.set_major_formatter("{x:g}")
            # Between powers of ten only where there are not two of these, and without powers.
            axis.yaxis.set_minor_formatter(
                LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4))
            )
            axis.grid(which="both", alpha=0.3)
        axes[0][0].legend()
        pictures[name] = folder / f"{device}_{name}.png"
        with replacing(pictures[name]) as temporary:
            figure.savefig(temporary, dpi=80)
        plt.close(figure)
    return pictures
