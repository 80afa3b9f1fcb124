"""The evaluator of a dataset, selected by its metadata."""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, LVISEvaluator, PascalVOCDetectionEvaluator

from ..errors import InputError
from ..modeling.two_stage import has_roi_heads, proposes
from .coco_evaluator import NormalizedCOCOEvaluator

__all__ = ["build_evaluator", "check_expected_names", "evaluation_tasks"]


def evaluation_tasks(cfg: CfgNode) -> list[str]:
    """
    Return what is scored: "bbox", "segm" and "keypoints", or "box_proposals".

    Args:
        cfg (CfgNode): The config. Only models with ROI heads predict masks and keypoints.
    """
    if not has_roi_heads(cfg):
        return ["box_proposals"] if proposes(cfg) else ["bbox"]
    with_masks = ["segm"] if cfg.MODEL.MASK_ON else []
    return ["bbox", *with_masks, *(["keypoints"] if cfg.MODEL.KEYPOINT_ON else [])]


def build_evaluator(
    dataset_name: str,
    output_dir: str,
    tasks: Sequence[str] | None = None,
    *,
    detections_per_image: int | None = None,
    kpt_oks_sigmas: Sequence[float] = (),
) -> DatasetEvaluator:
    """
    Build the evaluator that the ``evaluator_type`` in a dataset's metadata names.

    detectron2's tools/train_net.py does the same. A dataset without ``evaluator_type`` gets the
    COCO metrics.

    Args:
        dataset_name (str): A registered dataset.
        output_dir (str): Folder where the evaluator writes its results.
        tasks (Sequence[str]): What is scored, see ``evaluation_tasks``. By default, what the
            detections have (COCO), or boxes (others).
        detections_per_image (int): See ``NormalizedCOCOEvaluator``.
        kpt_oks_sigmas (Sequence[float]): See ``NormalizedCOCOEvaluator``.

    Raises:
        InputError: If the evaluator type is not one for box detection, or the annotation file has
            errors.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type in ("coco", "coco_panoptic_seg", None):
        return NormalizedCOCOEvaluator(
            dataset_name,
            tasks=tasks,
            output_dir=output_dir,
            detections_per_image=detections_per_image,
            kpt_oks_sigmas=kpt_oks_sigmas,
        )
    if evaluator_type == "lvis":
        # Without tasks, annotations with masks would make the evaluator expect predicted masks.
        return LVISEvaluator(dataset_name, tasks=tasks or ("bbox",), output_dir=output_dir)
    if evaluator_type == "pascal_voc":
        return PascalVOCDetectionEvaluator(dataset_name)
    raise InputError(
        f"There is no evaluator for the dataset {dataset_name!r}: its metadata has "
        f"evaluator_type = {evaluator_type!r}. Set it to 'coco', 'lvis' or 'pascal_voc' where the "
        "dataset is registered, or leave DATASETS.TEST empty."
    )


def check_expected_names(expected: Sequence[Sequence[Any]], results: Mapping[str, Any]) -> None:
    """
    Check that an evaluation has the metrics that TEST.EXPECTED_RESULTS names.

    detectron2 compares their values at the end of a run.

    Args:
        expected (list[list]): Entries [task, metric, value, tolerance].
        results (dict): Results of an evaluation, task -> metric -> value.

    Raises:
        InputError: If the evaluation has no such task or metric.
    """
    for task, metric, *_ in expected:
        known = results.get(task, results)  # the task's metrics, or else all tasks
        if metric not in results.get(task, {}):
            raise InputError(
                f"TEST.EXPECTED_RESULTS names {task!r}, {metric!r}, but the evaluation has only: "
                f"{', '.join(known)}.",
                key="TEST.EXPECTED_RESULTS",
            )
