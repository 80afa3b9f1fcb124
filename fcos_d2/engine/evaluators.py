"""The evaluator that a dataset's metadata asks for."""

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
    Choose an evaluator by the ``evaluator_type`` of the metadata.

    This is what detectron2's tools/train_net.py does. A dataset without one gets COCO's metrics:
    the evaluator converts it to COCO's format.

    COCO's metrics are computed by the package faster-coco-eval where it is installed: the same
    figures, sooner.

    Args:
        dataset_name (str): a registered dataset.
        output_dir (str): where the evaluator may leave its results.

    Raises:
        InputError: the metadata asks for something that is not box detection.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type in ("coco", "coco_panoptic_seg", None):
        evaluator = COCOEvaluator if _import_faster_eval() is None else _FasterCOCOEvaluator
        # Only boxes: the annotations of a dataset with masks would make it look for masks.
        return evaluator(dataset_name, tasks=("bbox",), output_dir=output_dir)
    if evaluator_type == "lvis":
        return LVISEvaluator(dataset_name, tasks=("bbox",), output_dir=output_dir)
    if evaluator_type == "pascal_voc":
        return PascalVOCDetectionEvaluator(dataset_name)
    raise InputError(
        f"No evaluator for the dataset {dataset_name!r}: its metadata has evaluator_type = "
        f"{evaluator_type!r}. Set it to 'coco', 'lvis' or 'pascal_voc' where the dataset is "
        "registered, or leave DATASETS.TEST empty."
    )


def check_expected_names(expected: Sequence[Sequence[Any]], results: Mapping[str, Any]) -> None:
    """
    Check that TEST.EXPECTED_RESULTS can be compared, which detectron2 does at the end.

    Args:
        expected (list[list]): of [task, metric, value, tolerance].
        results (dict): task -> metric -> value, of an evaluation.

    Raises:
        InputError: the evaluation has no such task or metric.
    """
    for task, metric, *_ in expected:
        known = results.get(task, results)
        if metric not in results.get(task, {}):
            raise InputError(
                f"TEST.EXPECTED_RESULTS names {task!r}, {metric!r}, but the evaluation gives: "
                f"{', '.join(known)}."
            )


class _FasterCOCOEvaluator(COCOEvaluator):
    """detectron2's, with faster-coco-eval in place of its compiled COCOeval."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, use_fast_impl=False, **kwargs)
        self._use_fast_impl = True

    def _eval_predictions(self, *args: Any, **kwargs: Any) -> None:
        # detectron2 has no argument for the class; it looks the name up at each evaluation.
        compiled = coco_evaluation.COCOeval_opt
        coco_evaluation.COCOeval_opt = _import_faster_eval()
        try:
            super()._eval_predictions(*args, **kwargs)
        finally:
            coco_evaluation.COCOeval_opt = compiled


def _import_faster_eval() -> Any:
    """A class with the methods of pycocotools' COCOeval; None where it is not installed."""
    try:
        from faster_coco_eval import COCOeval_faster
    except ModuleNotFoundError as error:
        if error.name != "faster_coco_eval":
            raise
        return None
    return COCOeval_faster
