"""
Draw the figures of algorithm.md and write the numbers that its text uses.

    python docs/make_figures.py [--output docs/images] [--coco instances_val2017.json]
                                [--weights output/demo/model_final.pth]

Most figures need only the package; the dataset shapes_train is drawn if it does not exist yet. One
figure needs the boxes of COCO val2017, and one needs a checkpoint of
configs/shapes/fcos_shapes_demo.yaml. Without these files the two figures and their numbers in
figures.json stay as they are.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures.ambiguity import compare_rules, draw_ambiguity
from figures.annotations import demo_levels, load_coco, load_shapes_train
from figures.assignment import draw_ltrb, draw_positives
from figures.detections import draw_centerness_at_test, load_model
from figures.targets import (
    compute_floors,
    draw_box_losses,
    draw_centerness,
    draw_floor,
    draw_scales,
    measure_levels,
)

from fcos_d2 import FCOSAssigner
from fcos_d2.modeling.levels import Levels

FLOOR_SIZES = (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 14, 16)  # strides
COCO_STRIDES = (8, 16, 32, 64, 128)
COCO_SIZES = (64, 128, 256, 512)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Draw the figures of docs/algorithm.md.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--coco", type=Path, help="instances_val2017.json, or a .gz of it")
    parser.add_argument("--weights", type=Path, help="checkpoint of fcos_shapes_demo.yaml")
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)

    numbers_file = args.output / "figures.json"
    numbers = json.loads(numbers_file.read_text()) if numbers_file.is_file() else {}
    numbers.update(draw_plain_figures(args.output))
    numbers.update(draw_shapes_figures(args.output))
    if args.coco:
        numbers.update(draw_coco_figures(args.output, args.coco))
    else:
        print("ambiguity_coco.png was not redrawn: it needs --coco")
    if args.weights:
        path = args.output / "centerness_at_test.png"
        numbers["trained"] = draw_centerness_at_test(path, load_model(args.weights))
    else:
        print("centerness_at_test.png was not redrawn: it needs --weights")
    text = json.dumps(_rounded(numbers), indent=2, sort_keys=True)
    numbers_file.write_text(text + "\n")
    print(text)


def draw_plain_figures(output: Path) -> dict[str, Any]:
    """Draw the figures that need no dataset, in a few seconds."""
    draw_ltrb(output / "ltrb.png")
    draw_positives(output / "positives.png")
    draw_centerness(output / "centerness.png")
    draw_floor(output / "centerness_floor.png", FLOOR_SIZES)
    draw_box_losses(output / "box_losses.png")
    floors = compute_floors(FLOOR_SIZES)
    return {"floor": {"sizes": FLOOR_SIZES, **floors}}


def draw_shapes_figures(output: Path) -> dict[str, Any]:
    """Draw the figures of all boxes of shapes_train."""
    images = load_shapes_train()
    ltrb_per_level, floors = measure_levels(images)
    draw_scales(output / "scales.png", ltrb_per_level)
    strides, borders = demo_levels()
    medians = [float(ltrb.median()) if len(ltrb) else None for ltrb in ltrb_per_level]
    table = compare_rules(_rules(strides, borders, only=strides[1]), images)
    draw_ambiguity(output / "ambiguity.png", table)
    return {
        "shapes_train": {
            "images": len(images),
            "boxes": sum(len(x.boxes) for x in images),
            "rules": table,
            "floor": floors,
            "positives": [len(ltrb) for ltrb in ltrb_per_level],
            "medians_in_pixels": medians,
        }
    }


def draw_coco_figures(output: Path, annotations: Path) -> dict[str, Any]:
    """Draw the figure of the boxes of COCO."""
    images = load_coco(annotations)
    table = compare_rules(_rules(COCO_STRIDES, COCO_SIZES, only=16), images)
    draw_ambiguity(output / "ambiguity_coco.png", table)
    boxes = sum(len(x.boxes) for x in images)
    return {"coco_val2017": {"images": len(images), "boxes": boxes, "rules": table}}


def _rules(strides: Sequence[int], borders: Sequence[float], only: int) -> dict[str, FCOSAssigner]:
    """Make three rules: one level only, all levels, and all levels with center sampling."""
    all_levels = {"levels": Levels(strides), "sizes_of_interest": borders}
    return {
        f"stride {only} only": FCOSAssigner(
            levels=Levels([only]), sizes_of_interest=[], center_sampling_radius=0
        ),
        f"{len(strides)} levels": FCOSAssigner(**all_levels, center_sampling_radius=0),
        f"{len(strides)} levels,\ncenter sampling": FCOSAssigner(
            **all_levels, center_sampling_radius=1.5
        ),
    }


def _rounded(value: Any) -> Any:
    """Round all numbers of nested dicts and lists to four digits."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key.replace("\n", " "): _rounded(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(x) for x in value]
    return value


if __name__ == "__main__":
    main()
