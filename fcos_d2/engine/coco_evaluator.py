"""detectron2's COCOEvaluator on the normalized content of a dataset."""

import contextlib
import io
import json
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.file_io import PathManager

from ..data.coco import file_ids, normalized_content, registered_datasets
from ..errors import InputError, count_words
from .coco_scores import CocoRules, choose_sigmas, index_content, score_detections

__all__ = ["NormalizedCOCOEvaluator"]

# The logger of detectron2's evaluator, which programs with detectron2 show.
logger = logging.getLogger(COCOEvaluator.__module__)

_STANDARD_MAX_DETS = 100  # COCO's figures are AP of at most 100 detections of an image
# The field that all annotations need for the scores of a task.
_NEEDED_FIELDS = {"segm": "segmentation", "keypoints": "keypoints"}


class NormalizedCOCOEvaluator(COCOEvaluator):
    """
    detectron2's COCOEvaluator with the annotations from ``data.coco.normalized_content``.

    These are its differences from detectron2's evaluator:

    - hotcoco computes the scores (see ``coco_scores``).
    - It evaluates annotations with ids of any type, and without ids.
    - It reads no file of an earlier run. A dataset that is registered as a function is converted in
      memory.
    - ``coco_instances_results.json`` has the image ids and category ids of the annotation file.
    - If there are no detections, AP is 0 where there are objects.
    - Detections whose score or box is not finite are left out, with a warning.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        detections_per_image: int | None = None,
        kpt_oks_sigmas: Sequence[float] = (),
    ) -> None:
        """
        Read the annotations.

        Args:
            dataset_name (str): A registered dataset. If its annotation file has no list
                "annotations", the detections are written and no scores are computed.
            tasks (Sequence[str]): What is scored: "bbox", "segm" and "keypoints". By default, these
                are "bbox" and what the detections have.
            distributed (bool): Collect the detections of all processes.
            output_dir (str): Folder for the detections; None does not write them.
            detections_per_image (int): The number of detections that the model may return for an
                image; None means the largest number that it returns. Up to 100, AP is computed by
                COCO's rules, otherwise with this number.
            kpt_oks_sigmas (Sequence[float]): A sigma for each keypoint; see
                ``coco_scores.choose_sigmas`` for the default.

        Raises:
            InputError: If the annotation file cannot be read or has errors.
        """
        # COCOEvaluator.__init__ would read the annotation file, or that of an earlier run. The
        # attributes are those that the inherited methods use.
        self._logger = logger
        self._tasks = tasks
        self._distributed = distributed
        self._output_dir = output_dir
        self._kpt_oks_sigmas = kpt_oks_sigmas
        self._cpu_device = torch.device("cpu")
        self._metadata = MetadataCatalog.get(dataset_name)
        self._content = normalized_content(dataset_name)
        self._do_evaluation = "annotations" in self._content
        self._detections_per_image = detections_per_image

    @cached_property
    def _coco_api(self) -> Any:
        """The index of pycocotools of the annotations, which the evaluation of proposals uses."""
        with contextlib.redirect_stdout(io.StringIO()):
            return index_content(self._content)

    def _eval_predictions(
        self, predictions: Sequence[Mapping[str, Any]], img_ids: Sequence[Any] | None = None
    ) -> None:
        """
        Write the detections, and compute the scores of all tasks.

        Args:
            predictions (list[dict]): An entry with "image_id" and "instances", a list of detections
                in COCO's format, for each image. The categories are class indices.
            img_ids (Sequence): Ids of the images to evaluate on; None means all images.

        Raises:
            InputError: If there are detections of an image or a class that the dataset lacks.
        """
        category_ids = _list_category_ids(self._content, self._metadata)
        image_ids = _ids_by_loaded_id(self._content, self._metadata, "images")
        detections = _drop_not_finite([x for y in predictions for x in y["instances"]])
        self._check_detections(detections, category_ids, image_ids)
        detections = _with_ids(detections, image_ids, category_ids)
        if self._output_dir:
            self._write(self._output_dir, detections)
        if not self._do_evaluation:
            logger.info(
                "No scores are computed: the dataset %r has no annotations.", self._metadata.name
            )
            return
        max_dets = self._choose_max_dets(predictions)
        for task in sorted(self._tasks or self._tasks_from_predictions(detections)):
            if self._can_score(task, category_ids):
                chosen = None if img_ids is None else [image_ids[x] for x in img_ids]
                sigmas = self._choose_sigmas() if task == "keypoints" else ()
                rules = CocoRules(task, category_ids, max_dets, sigmas, chosen)
                self._results[task] = self._score(detections, rules)

    def _choose_max_dets(self, predictions: Iterable[Mapping[str, Any]]) -> list[int]:
        """Return COCO's limits of the number of detections, with a higher one if need be."""
        most = self._detections_per_image
        if most is None:
            most = max(len(prediction["instances"]) for prediction in predictions)
        if most > _STANDARD_MAX_DETS:
            logger.info(
                "AP is computed with %d detections of an image, as many as the model returns. "
                "These figures are not COCO's, which are computed with %d.",
                most,
                _STANDARD_MAX_DETS,
            )
        return [1, 10, max(_STANDARD_MAX_DETS, most)]

    def _choose_sigmas(self) -> Sequence[float]:
        """Return a sigma for each keypoint of the dataset; log the value if it is derived."""
        keypoints = (x.get("keypoints") or () for x in self._content["annotations"])
        sigmas = choose_sigmas(self._kpt_oks_sigmas, max(map(len, keypoints), default=0) // 3)
        if not self._kpt_oks_sigmas and len(set(sigmas)) == 1:
            logger.info(
                "The AP of the %d keypoints of the dataset %r is computed with the sigma %s for "
                "each, the mean of COCO's sigmas. TEST.KEYPOINT_OKS_SIGMAS sets others.",
                len(sigmas),
                self._metadata.name,
                sigmas[0],
            )
        return sigmas

    def _check_detections(
        self,
        detections: Sequence[Mapping[str, Any]],
        category_ids: Sequence[int],
        image_ids: Mapping[Any, int],
    ) -> None:
        """Check that the dataset has the images and classes of the detections."""
        name = self._metadata.name
        last_class = max((x["category_id"] for x in detections), default=-1)
        if last_class >= len(category_ids):
            raise InputError(
                f"The model detects class {last_class} (counted from 0), but the dataset {name!r} "
                f"has {count_words(len(category_ids), '{class|classes}')}. Evaluate on data with "
                "the classes that the model was trained for."
            )
        unknown = {x["image_id"] for x in detections} - image_ids.keys()
        if unknown:
            raise InputError(
                f"The detections have {count_words(len(unknown), '{image id|image ids}')} that the "
                f"dataset {name!r} lacks, such as {min(unknown, key=str)!r}. The data loader must "
                "load the dataset of the evaluator."
            )

    def _write(self, output_dir: str, detections: Sequence[Mapping[str, Any]]) -> None:
        """Write the detections with the file's own ids."""
        image_ids, category_ids = (file_ids(self._content, x) for x in ("images", "categories"))
        file = os.path.join(output_dir, "coco_instances_results.json")
        logger.info("Saving results to %s", file)
        with PathManager.open(file, "w") as stream:
            stream.write(json.dumps(_with_ids(detections, image_ids, category_ids)))

    def _can_score(self, task: str, category_ids: Sequence[int]) -> bool:
        """Return whether all annotations have what a task needs; warn if they do not."""
        field = _NEEDED_FIELDS.get(task)
        ids = set(category_ids)
        if task == "keypoints":  # classes may have no keypoints, if others have some
            named = {x["id"] for x in self._content["categories"] if x.get("keypoints")}
            ids = ids & named or ids
        annotations = [
            x
            for x in self._content["annotations"]
            if x["category_id"] in ids and not (task == "keypoints" and x["iscrowd"])
        ]
        lacking = [x for x in annotations if field is not None and not x.get(field)]
        if lacking:
            logger.warning(
                "No scores of %r are computed: %d of %d annotations of the dataset %r have no %s, "
                "the first is annotation %s.",
                task,
                len(lacking),
                len(annotations),
                self._metadata.name,
                field,
                file_ids(self._content, "annotations")[lacking[0]["id"]],
            )
        return not lacking

    def _score(self, detections: list[dict[str, Any]], rules: CocoRules) -> dict[str, float]:
        """Compute the metrics of a task, and log them."""
        if rules.task == "keypoints":
            _check_numbers_of_keypoints(self._content, detections, rules)
        scores = score_detections(self._content, detections, rules)
        with contextlib.redirect_stdout(io.StringIO()) as text:
            scores.summarize()
        logger.info("COCO's metrics of %s:\n%s", rules.task, text.getvalue())
        class_names = self._metadata.get("thing_classes")
        return self._derive_coco_results(scores, rules.task, class_names=class_names)


def _drop_not_finite(detections: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the detections with a finite score and box; warn if there are others."""
    finite = [x for x in detections if all(map(math.isfinite, (x["score"], *x["bbox"])))]
    if len(finite) < len(detections):
        logger.warning(
            "%d of %s a score or a box that is not finite. They are left out of the results and "
            "of the scores. Is there a NaN in the weights?",
            len(detections) - len(finite),
            count_words(len(detections), "{detection has|detections have}"),
        )
    return finite


def _with_ids(
    detections: Iterable[Mapping[str, Any]],
    image_ids: Mapping[Any, Any],
    category_ids: Mapping[int, Any] | Sequence[Any],
) -> list[dict[str, Any]]:
    """Return detections whose image ids and category ids are replaced."""
    return [
        {
            **x,
            "image_id": image_ids[x["image_id"]],
            "category_id": category_ids[x["category_id"]],
        }
        for x in detections
    ]


def _check_numbers_of_keypoints(
    content: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], rules: CocoRules
) -> None:
    """Check that objects and detections have as many keypoints as there are sigmas."""
    sigmas = rules.prepare(content).params.kpt_oks_sigmas
    objects = [x for x in content["annotations"] if x["category_id"] in rules.category_ids]
    for entries, owner in ((objects, "dataset"), (detections, "model")):
        numbers = {len(x["keypoints"]) // 3 for x in entries if x.get("keypoints")}
        if numbers - {len(sigmas)}:
            raise InputError(
                f"TEST.KEYPOINT_OKS_SIGMAS needs a number for each keypoint. There are "
                f"{len(sigmas)} (by default, one for each keypoint of the dataset), but the "
                f"keypoints of the {owner} are {', '.join(map(str, sorted(numbers)))}.",
                key="TEST.KEYPOINT_OKS_SIGMAS",
                value=list(rules.kpt_oks_sigmas),
            )


def _ids_by_loaded_id(content: Mapping[str, Any], metadata: Metadata, name: str) -> dict[Any, int]:
    """
    Return the normalized id of each entry by the id that is loaded with the dataset.

    Datasets that this package has registered give normalized ids, and all others their own ids. A
    number may be the normalized id of one image and the own id of another.
    """
    is_normalized = metadata.name in {x.name for x in registered_datasets()}
    return {i if is_normalized else own: i for i, own in file_ids(content, name).items()}


def _list_category_ids(content: Mapping[str, Any], metadata: Metadata) -> list[int]:
    """Return the category id of each class, in the order of class indices."""
    ids = _ids_by_loaded_id(content, metadata, "categories")
    indices = metadata.get("thing_dataset_id_to_contiguous_id")
    if indices is None:  # a dataset that is registered as a function
        return sorted(file_ids(content, "categories"))
    return [ids.get(x, x) for x in sorted(indices, key=indices.__getitem__)]
