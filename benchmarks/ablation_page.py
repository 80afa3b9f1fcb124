"""The page that an ablation writes."""

import statistics
from pathlib import Path
from typing import Any

from ablation_variants import GROUPS, SEEDS_OF_FULL_RECIPE, Variant

from fcos_d2.atomic_write import replacing

__all__ = ["write_page"]

_FAR = 0.1  # of the full recipe's AP; beyond it a row needs a reason

_INTRODUCTION = """\
# Ablation

What each part of FCOS does on the drawn shapes (`make demo`'s data), with a network of
{parameters:.2f} M parameters, {max_iter} iterations of {images} images from random weights each.
`make ablation` trains all of it and writes this page.

Small pictures, a small network and a short schedule: what the papers saw on COCO need not show.
Boxes start empty in all of it but one row (PRIOR_LTRB 0), as in the papers.
The full recipe was trained with seeds {seeds}: AP {mean:.1f} +- {spread:.1f} (standard deviation).
Every other row is one seed, so a difference below about twice that says nothing. "Published" is
the AP of the same step on COCO with ResNet-50 (arXiv:1904.01355v5, Tables 3 and 4, or as named),
not ours.
"""
_HEADER = (
    "| {first} | AP | AP50 | APs | against full | M parameters | published |\n"
    "|---|---|---|---|---|---|---|\n"
)


def write_page(path: Path, results: dict[str, list[dict[str, Any]]]) -> None:
    """
    Args:
        path (Path): of the Markdown file.
        results (dict): name of each variant -> for each seed {"AP", "AP50", "APs", "parameters",
            "iterations", "images"}.
    """
    aps = [result["AP"] for result in results["full"]]
    parts = [
        _INTRODUCTION.format(
            parameters=results["full"][0]["parameters"] / 1e6,
            max_iter=results["full"][0]["iterations"],
            images=results["full"][0]["images"],
            seeds=", ".join(map(str, SEEDS_OF_FULL_RECIPE)),
            mean=statistics.mean(aps),
            spread=statistics.stdev(aps),
        )
    ]
    for title, variants in GROUPS:
        rows = "".join(_row(variant, results) for variant in variants)
        first = "step" if variants[0].reason else "variant"
        parts.append(f"## {title}\n\n{_HEADER.format(first=first)}{rows}")
        parts.extend(_reasons(variants, results))
    with replacing(path) as temporary:
        temporary.write_text("\n".join(parts))


def _means(name: str, results: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    metrics = ("AP", "AP50", "APs")
    return {m: statistics.mean(result[m] for result in results[name]) for m in metrics}


def _row(variant: Variant, results: dict[str, list[dict[str, Any]]]) -> str:
    means, full = _means(variant.name, results), _means("full", results)
    figures = " | ".join(f"{means[metric]:.1f}" for metric in ("AP", "AP50", "APs"))
    difference = "-" if variant.is_full_recipe else f"{means['AP'] - full['AP']:+.1f}"
    millions = f"{results[variant.name][0]['parameters'] / 1e6:.2f}"
    published = variant.published or "-"
    return f"| {variant.title} | {figures} | {difference} | {millions} | {published} |\n"


def _reasons(variants: list[Variant], results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A line for each row that is far below or above the full recipe."""
    full = _means("full", results)["AP"]
    far: dict[str, list[str]] = {}
    for variant in variants:
        if abs(_means(variant.name, results)["AP"] / full - 1) > _FAR:
            far.setdefault(variant.reason or "no reason known", []).append(variant.title)
    return [
        f"More than {_FAR:.0%} away from the full recipe: {'; '.join(titles)}. Why: {reason}.\n"
        for reason, titles in far.items()
    ]
