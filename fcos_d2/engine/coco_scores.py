"""
Precision and recall of detections by COCO's rules.

The package hotcoco computes them. Where it is not installed, pycocotools does, with equal results.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from statistics import fmean
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets

from ..data.coco.keypoint_fields import count_labeled

__all__ = ["CocoRules", "choose_sigmas", "index_content", "score_detections"]

Content = Mapping[str, Any]
Detections = list[dict[str, Any]]

# The fields that COCO's scores of a task read from a detection, in addition to the ids and the
# score. The size of a mask is its area, so the box is not passed on with it.
_FIELDS = {"bbox": ("bbox",), "segm": ("segmentation",), "keypoints": ("bbox", "keypoints")}
# The fields that they read from each list of a dataset, in addition to those of the task. hotcoco
# checks the types of other fields, in which tools write any values.
_CONTENT_FIELDS = {
    "images": ("id", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "area", "iscrowd", "ignore"),
    "categories": ("id", "name"),
}


class CocoRules(NamedTuple):
    """
    What is scored, and how.

    Attributes:
        task (str): "bbox", "segm" or "keypoints".
        category_ids (Sequence[int]): The category id of each class, in the order of class indices.
        max_dets (Sequence[int]): Three numbers of detections of an image and a class, in ascending
            order; AP uses the last one. It is always 20 for keypoints.
        kpt_oks_sigmas (Sequence[float]): A sigma for each keypoint; empty means COCO's 17.
        image_ids (Sequence[int]): Ids of the images to evaluate on; None means all images.
    """

    task: str
    category_ids: Sequence[int]
    max_dets: Sequence[int] = (1, 10, 100)
    kpt_oks_sigmas: Sequence[float] = ()
    image_ids: Sequence[int] | None = None

    def prepare(self, content: Content) -> COCOevalMaxDets:
        """Return pycocotools' evaluation with these rules as ``params``, without any scores."""
        evaluation = COCOevalMaxDets(iouType=self.task)
        params = evaluation.params
        params.catIds = sorted(self.category_ids)
        image_ids = self.image_ids
        if image_ids is None:
            image_ids = [image["id"] for image in content["images"]]
        params.imgIds = sorted(image_ids)
        if self.task != "keypoints":
            params.maxDets = list(self.max_dets)
        if self.kpt_oks_sigmas:
            params.kpt_oks_sigmas = np.array(self.kpt_oks_sigmas)
        return evaluation


def choose_sigmas(kpt_oks_sigmas: Sequence[float], num_keypoints: int) -> Sequence[float]:
    """
    Return a sigma for each keypoint, for the OKS (object keypoint similarity).

    Args:
        kpt_oks_sigmas (Sequence[float]): Those of the config, which are returned if there are any.
        num_keypoints (int): The number of keypoints of an object.

    Returns:
        Sequence[float]: COCO's for 17 keypoints; for another number, the mean of COCO's for each.
    """
    if kpt_oks_sigmas:
        return kpt_oks_sigmas
    coco = COCOevalMaxDets(iouType="keypoints").params.kpt_oks_sigmas.tolist()
    return coco if num_keypoints == len(coco) else [round(fmean(coco), 3)] * num_keypoints


def score_detections(content: Content, detections: Detections, rules: CocoRules) -> COCOevalMaxDets:
    """
    Compute precision and recall.

    Args:
        content (dict): The normalized content of a dataset (``data.coco.normalized_content``).
            hotcoco computes wrong values for any other content.
        detections (list[dict]): Detections in COCO's format for results, with the image ids and
            category ids of ``content``. The list may be empty.
        rules (CocoRules): What is scored.

    Returns:
        COCOevalMaxDets: An object with ``params`` and ``eval`` whose ``summarize`` can be called.
        The classes in ``eval`` have the order of ``rules.category_ids``.
    """
    scores = rules.prepare(content)
    params = scores.params
    fields = ("image_id", "category_id", "score", *_FIELDS[rules.task])
    detections = [{field: x[field] for field in fields} for x in detections]
    content = _select_fields(content, _FIELDS[rules.task])
    if rules.task == "keypoints":
        content = _with_num_keypoints(content, len(params.kpt_oks_sigmas))
    hotcoco = _import_hotcoco()
    if hotcoco is None:
        arrays = _run_pycocotools(content, detections, params)
    else:
        arrays = _run_hotcoco(hotcoco, content, detections, params)
    # Both packages sort the categories by id. The axes are IoU thresholds, recalls, classes, sizes
    # and max_dets; the array "recall" lacks the second one.
    order = np.searchsorted(params.catIds, rules.category_ids)
    scores.eval = {
        "precision": arrays["precision"][:, :, order],
        "recall": arrays["recall"][:, order],
        "scores": arrays["scores"][:, :, order],
    }
    return scores


def _with_num_keypoints(content: Content, num_keypoints: int) -> Content:
    """
    Return a copy that has the number of labeled keypoints, which COCO's rules read.

    Crowds and objects of classes without keypoints may have none. They get unlabeled ones.
    """
    annotations = []
    for annotation in content["annotations"]:
        keypoints = annotation.get("keypoints") or [0] * (3 * num_keypoints)
        count = count_labeled(keypoints)
        annotations.append({**annotation, "keypoints": keypoints, "num_keypoints": count})
    return {**content, "annotations": annotations}


def _select_fields(content: Content, of_task: Sequence[str]) -> Content:
    """Return a copy with only the fields that the scores of a task read from a dataset."""
    selected = {}
    for name, fields in _CONTENT_FIELDS.items():
        fields = (*fields, *of_task) if name == "annotations" else fields
        selected[name] = [{key: x[key] for key in fields if key in x} for x in content[name]]
    return selected


def _run_hotcoco(
    hotcoco: ModuleType, content: Content, detections: Detections, params: Any
) -> Mapping[str, Any]:
    """Compute the arrays with hotcoco, which copies the content."""
    truth = hotcoco.COCO(content)
    evaluation = hotcoco.COCOeval(truth, truth.load_res(detections), params.iouType)
    for name in ("catIds", "imgIds", "maxDets"):
        setattr(evaluation.params, name, getattr(params, name))
    if params.iouType == "keypoints":
        evaluation.params.kpt_oks_sigmas = params.kpt_oks_sigmas.tolist()
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval


def _run_pycocotools(content: Content, detections: Detections, params: Any) -> Mapping[str, Any]:
    """Compute the arrays with pycocotools."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it reports each of its steps
        truth = index_content(content)  # a copy, because pycocotools changes the annotations
        if detections:
            found = truth.loadRes(detections)
        else:  # loadRes cannot read an empty list
            found = index_content({**content, "annotations": []})
        evaluation = COCOeval(truth, found, params.iouType)
        evaluation.params = params
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval


def index_content(content: Content) -> Any:
    """Return pycocotools' index of a dataset."""
    from pycocotools.coco import COCO

    index = COCO()
    index.dataset = content
    index.createIndex()
    return index


def _import_hotcoco() -> ModuleType | None:
    """Return the package hotcoco, or None if it is not installed."""
    try:
        import hotcoco
    except ModuleNotFoundError as error:
        if error.name != "hotcoco":
            raise
        return None
    return hotcoco
