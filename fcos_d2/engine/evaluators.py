"""The evaluator of a dataset, selected by its metadata."""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    coco_evaluation,
)

from ..errors import InputError

__all__ = ["build_evaluator", "check_expected_names"]


def build_evaluator(dataset_name: str, output_dir: str) -> DatasetEvaluator:
    """
    Build the evaluator that the ``evaluator_type`` in a dataset's metadata names.

    detectron2's tools/train_net.py does the same. A dataset without ``evaluator_type`` gets the
    COCO metrics; the evaluator converts it to COCO format.

    If the package faster-coco-eval is installed, it computes the COCO metrics, with the same
    results in less time.

    Args:
        dataset_name (str): A registered dataset.
        output_dir (str): Folder where the evaluator writes its results.

    Raises:
        InputError: If the evaluator type is not one for box detection.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type in ("coco", "coco_panoptic_seg", None):
        evaluator = COCOEvaluator if _import_faster_eval() is None else _FasterCOCOEvaluator
        # Without tasks, annotations with masks would make the evaluator expect predicted masks. The
        # file that an earlier run converted may be out of date.
        return evaluator(
            dataset_name, tasks=("bbox",), output_dir=output_dir, allow_cached_coco=False
        )
    if evaluator_type == "lvis":
        return LVISEvaluator(dataset_name, tasks=("bbox",), output_dir=output_dir)
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


class _FasterCOCOEvaluator(COCOEvaluator):
    """detectron2's COCOEvaluator with faster-coco-eval instead of its compiled COCOeval."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, use_fast_impl=False, **kwargs)
        self._use_fast_impl = True

    def _eval_predictions(self, *args: Any, **kwargs: Any) -> None:
        """Evaluate, with detectron2's name of the COCOeval class replaced."""
        # detectron2 has no argument for the class; it looks up this name at each evaluation.
        compiled = coco_evaluation.COCOeval_opt
        coco_evaluation.COCOeval_opt = _import_faster_eval()
        try:
            super()._eval_predictions(*args, **kwargs)
        finally:
            coco_evaluation.COCOeval_opt = compiled


def _import_faster_eval() -> type | None:
    """Return faster-coco-eval's replacement of COCOeval, or None if it is not installed."""
    try:
        from faster_coco_eval import COCOeval_faster
    except ModuleNotFoundError as error:
        if error.name != "faster_coco_eval":
            raise
        return None
    return COCOeval_faster
