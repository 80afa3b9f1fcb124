"""
Train proposals, masks and keypoints on the synthetic shapes, and write docs/beyond.md.

FCOS and detectron2's RPN propose boxes with the same backbone, batches, schedule and optimizer.
A Mask R-CNN and a Keypoint R-CNN on FCOS are trained, and the detector of ``make demo``, which is
evaluated with test-time augmentation. Results are kept in the output directory.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from learning import format_spread, keep_result
from measuring import describe_machine
from numpy.typing import NDArray
from page import format_table, replace_marked
from PIL import Image

from fcos_d2 import get_config_file
from fcos_d2.checkpoint import FCOSCheckpointer
from fcos_d2.data.keypoints import connection_rules_of, keypoint_names_of
from fcos_d2.data.shapes.spec import SHAPE_CLASSES
from fcos_d2.drawing import build_skeleton, drawable_names
from fcos_d2.engine import Trainer, prepare_config
from fcos_d2.evaluation_results import load_dataset, read_detections
from fcos_d2.visualization import draw_comparison

PAGE = Path(__file__).resolve().parent.parent / "docs" / "beyond.md"
_VAL = "shapes_val"
_SHOWN = (1, 20)  # indices of validation images
_NUM_COLORS = 200  # of the pictures, to keep their files small
_PROPOSAL_ITERATIONS = 1000
# One anchor size for each level and three shapes, as in detectron2's recipes. The sizes are 4
# strides, because the objects are small. detectron2's 8 strides, and 2, are measured too.
_RPN = {
    "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16], [32], [64], [128]],
}
_HALF_ANCHORS = {**_RPN, "MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64]]}
_TWICE_ANCHORS = {**_RPN, "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256]]}
# Title and folder of each proposal generator, and its keys.
_GENERATORS: Sequence[tuple[str, str, Mapping[str, Any]]] = (
    ("FCOS", "FCOS", {}),
    ("detectron2's RPN", "RPN", _RPN),
    ("the same, anchors of half the size", "RPN_half_anchors", _HALF_ANCHORS),
    ("the same, anchors of twice the size", "RPN_twice_anchors", _TWICE_ANCHORS),
)
_RECALLS = ("AR@100", "ARs@100", "ARm@100", "ARl@100", "AR@1000")
_AUGMENTATIONS: Mapping[str, Mapping[str, Any]] = {
    "flips": {"TEST.AUG.MIN_SIZES": (0,), "TEST.AUG.FLIP": True},
    "3 scales": {"TEST.AUG.MIN_SIZES": (176, 224, 288), "TEST.AUG.FLIP": False},
    "3 scales and flips": {"TEST.AUG.MIN_SIZES": (176, 224, 288), "TEST.AUG.FLIP": True},
}


def make_cfg(
    recipe: str, folder: Path, seed: int, opts: Mapping[str, Any], overrides: Sequence[str]
) -> CfgNode:
    """
    Make the config of a recipe.

    Args:
        recipe (str): A file in configs/shapes, without _shapes.yaml.
        folder (Path): The output folder.
        seed (int): The seed.
        opts (dict): Values of keys.
        overrides (list[str]): More overrides, from the command line.
    """
    own = [x for pair in opts.items() for x in pair]
    fixed = ["OUTPUT_DIR", folder, "SEED", seed, "TEST.EVAL_PERIOD", 0]
    file = get_config_file(f"shapes/{recipe}.yaml")
    return prepare_config(file, [*map(str, (*own, *fixed)), *overrides])


def train_and_evaluate(cfg: CfgNode) -> dict[str, float]:
    """Return the metrics after a training, such as "segm/AP", from the output folder if known."""

    def train() -> dict[str, float]:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        return _flatten(trainer._last_eval_results)

    return keep_result(cfg, train)


def evaluate(cfg: CfgNode) -> dict[str, float]:
    """Return the metrics of MODEL.WEIGHTS with test-time augmentation."""

    def test() -> dict[str, float]:
        model = Trainer.build_model(cfg)
        FCOSCheckpointer(model, complete=True).load(cfg.MODEL.WEIGHTS)
        return _flatten(Trainer.test_with_TTA(cfg, model))

    return keep_result(cfg, test)


def _flatten(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return "task/metric" -> value; AP is NaN where there is no object."""
    return {
        f"{task}/{metric}": value
        for task, metrics in results.items()
        for metric, value in metrics.items()
        if not math.isnan(value)
    }


def _compare_proposals(args: argparse.Namespace) -> str:
    """Train both proposal generators with all seeds; return the table of their recall."""
    rows = []
    for title, short_name, opts in _GENERATORS:
        results = []
        for seed in args.seeds:
            folder = args.output_dir / "beyond" / f"{short_name}_seed{seed}"
            iterations = {"SOLVER.MAX_ITER": _PROPOSAL_ITERATIONS}
            cfg = make_cfg("fcos_proposals_shapes", folder, seed, {**iterations, **opts}, args.opts)
            results.append(train_and_evaluate(cfg))
        recalls = [[x[f"box_proposals/{recall}"] for x in results] for recall in _RECALLS]
        rows.append([title, *map(format_spread, recalls)])
    return format_table(["", *_RECALLS], rows)


def _train_rcnns(args: argparse.Namespace) -> str:
    """Train the R-CNNs, and return the table of their APs."""
    rows = []
    for title, task in (("Mask R-CNN", "segm"), ("Keypoint R-CNN", "keypoints")):
        recipe = f"{title.split()[0].lower()}_rcnn_fcos_shapes"
        folder = args.output_dir / "beyond" / recipe
        found = train_and_evaluate(make_cfg(recipe, folder, args.seeds[0], {}, args.opts))
        results = folder / "inference" / "coco_instances_results.json"
        picture = Image.fromarray(_draw(results, task)).quantize(_NUM_COLORS)
        picture.save(args.page.parent / "images" / f"beyond_{task}.png", optimize=True)
        box, other = found["bbox/AP"], found[f"{task}/AP"]
        rows.append([title, f"{box:.1f}", f"{other:.1f}", f"{other / box:.2f}"])
    return format_table(["", "box AP", "AP of masks or keypoints", "ratio"], rows)


def _draw(results: Path, task: str) -> NDArray[np.uint8]:
    """Draw annotations and detections of some validation images, for a task, below each other."""
    hidden = {"segm": "keypoints", "keypoints": "segmentation"}[task]
    detections = read_detections(results, _VAL)
    skeleton = build_skeleton(keypoint_names_of(_VAL), connection_rules_of(_VAL))
    names = drawable_names(SHAPE_CLASSES)
    records = load_dataset(_VAL)
    pictures = [
        draw_comparison(
            _without(x, hidden), detections.get(x["image_id"], []), names, 0.5, skeleton
        )
        for x in (records[i] for i in _SHOWN)
    ]
    width = max(x.shape[1] for x in pictures)
    padded = [
        np.pad(x, ((0, 12), (0, width - x.shape[1]), (0, 0)), constant_values=255) for x in pictures
    ]
    return np.concatenate(padded)[:-12]


def _without(record: Mapping[str, Any], field: str) -> dict[str, Any]:
    """Return a dataset dict whose annotations lack a field."""
    annotations = [{k: v for k, v in x.items() if k != field} for x in record["annotations"]]
    return {**record, "annotations": annotations}


def _augment_tests(args: argparse.Namespace) -> str:
    """Train the detector of the demo, and return the table of its APs with augmentation."""
    folder, rows = args.output_dir / "beyond" / "demo", []
    plain = train_and_evaluate(make_cfg("fcos_shapes_demo", folder, args.seeds[0], {}, args.opts))
    metrics = ("AP", "AP50", "APs", "APm", "APl")
    rows.append(["none", *(f"{plain[f'bbox/{x}']:.1f}" for x in metrics)])
    for name, opts in _AUGMENTATIONS.items():
        weights = {"MODEL.WEIGHTS": folder / "model_final.pth", "TEST.AUG.ENABLED": True}
        tta_folder = folder / name.replace(" ", "_")
        cfg = make_cfg("fcos_shapes_demo", tta_folder, 1, {**weights, **opts}, args.opts)
        found = evaluate(cfg)
        rows.append([name, *(f"{found[f'bbox_TTA/{x}']:.1f}" for x in metrics)])
    return format_table(["augmentation", *metrics], rows)


def run(args: argparse.Namespace) -> None:
    """Train what is missing, and write the tables into the page."""
    machine = describe_machine("cpu")
    seeds = ", ".join(map(str, args.seeds))
    proposals = f"{machine}; seeds {seeds}, mean +- standard deviation."
    replace_marked(args.page, "proposals", f"{proposals}\n\n{_compare_proposals(args)}")
    replace_marked(args.page, "masks and keypoints", _train_rcnns(args))
    replace_marked(args.page, "augmentation", _augment_tests(args))
