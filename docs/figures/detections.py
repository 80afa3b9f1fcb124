"""Compare the detections of a trained model, ranked without and with center-ness."""

from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from detectron2.structures import BoxMode, Instances, pairwise_iou
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn

from .annotations import demo_cfg, to_instances
from .style import RED, TEAL, add_box, show_image, write_figure

__all__ = ["draw_centerness_at_test", "load_model"]

_GOOD_IOU = 0.75
_SURE = 20.0  # a logit with a sigmoid of 1, so that center-ness does not change the score


class RankedImage(NamedTuple):
    """
    An image with its detections, ranked in two ways.

    Attributes:
        image_id (int): Id in the dataset.
        image (NDArray): (H, W, 3) RGB.
        truth (Instances): The objects.
        by_class (Instances): Detections ranked by class score only.
        by_both (Instances): Detections ranked by class score and center-ness.
        centerness (Tensor): (H, W) the highest predicted center-ness of all levels at each pixel;
            NaN where no class score is above the threshold.
    """

    image_id: int
    image: NDArray[Any]
    truth: Instances
    by_class: Instances
    by_both: Instances
    centerness: Tensor


def load_model(weights: Path) -> nn.Module:
    """Build the demo's model with these weights."""
    cfg = demo_cfg()
    cfg.MODEL.WEIGHTS = str(weights)
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model.eval()


@torch.no_grad()
def _detect(model: Any, record: dict[str, Any]) -> RankedImage:
    """Detect the objects of one image of shapes_val."""
    image = read_image(record["file_name"], format="BGR")
    size = image.shape[:2]
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())
    features = model.backbone(model.preprocess_image([{"image": pixels}]).tensor)
    predictions = model.dense_head.predict([features[name] for name in model.head_in_features])
    sure = [torch.full_like(x, _SURE) for x in predictions.quality_logits]
    by_class, by_both = (
        model.dense_head.detect(x, [size])[0]
        for x in (predictions._replace(quality_logits=sure), predictions)
    )
    centerness = torch.full(size, -1.0)
    maps = zip(
        predictions.cls_logits, predictions.quality_logits, model.levels.strides, strict=True
    )
    for logits, quality, stride in maps:
        is_class = logits[0].amax(dim=0).sigmoid() > model.postprocessor.score_thresh_test
        of_level = quality[0, 0].sigmoid().where(is_class, -1)
        of_level = of_level.repeat_interleave(stride, 0).repeat_interleave(stride, 1)
        centerness = torch.maximum(centerness, of_level[: size[0], : size[1]])
    centerness[centerness < 0] = torch.nan
    objects = [x for x in record["annotations"] if not x["iscrowd"]]
    boxes = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in objects]
    classes = torch.tensor([x["category_id"] for x in objects], dtype=torch.int64)
    truth = to_instances(size, torch.tensor(boxes).reshape(-1, 4), classes)
    return RankedImage(record["image_id"], image[..., ::-1], truth, by_class, by_both, centerness)


def _first_hits(truth: Instances, detections: Instances) -> list[bool]:
    """
    Check which of the M best detections are right, where M is the number of objects.

    A detection is right if it has the class of an object and an IoU with it of at least 0.75, and
    no better detection has matched the same object.
    """
    best = detections[: len(truth)]
    ious = pairwise_iou(best.pred_boxes, truth.gt_boxes)
    ious *= best.pred_classes[:, None] == truth.gt_classes
    taken, hits = set(), []
    for row in ious:
        iou, index = row.max(dim=0)
        hits.append(bool(iou >= _GOOD_IOU) and int(index) not in taken)
        if hits[-1]:
            taken.add(int(index))
    return hits


def draw_centerness_at_test(path: Path, model: nn.Module) -> dict[str, Any]:
    """
    Draw a scene of shapes_val that gains by center-ness, and measure all of them.

    The scene has 4 to 9 objects and gains the most right detections; of equal ones it is the one
    with the fewest objects.

    Returns:
        dict: AP of both rankings, the numbers of images that gain and lose, and the learned scales.
    """
    images = [_detect(model, record) for record in DatasetCatalog.get("shapes_val")]
    hits = {
        x.image_id: (_first_hits(x.truth, x.by_class), _first_hits(x.truth, x.by_both))
        for x in images
        if len(x.truth)
    }
    gains = {i: sum(by_both) - sum(by_class) for i, (by_class, by_both) in hits.items()}
    shown = max(
        (x for x in images if 4 <= len(x.truth) <= 9),
        key=lambda x: (gains[x.image_id], -len(x.truth), -x.image_id),
    )
    _draw_scene(path, shown, hits[shown.image_id])
    scores = {
        name: _evaluate([(x.image_id, getattr(x, attribute)) for x in images])
        for name, attribute in (("class_score_only", "by_class"), ("with_centerness", "by_both"))
    }
    scales = [float(scale.scale.detach()) for scale in model.head.scales]  # type: ignore[union-attr]
    return {
        "at_test": scores,
        "scene": {"image_id": shown.image_id, "gain": gains[shown.image_id]},
        "images_gaining": sum(gain > 0 for gain in gains.values()),
        "images_losing": sum(gain < 0 for gain in gains.values()),
        "images_compared": len(gains),
        "scales": scales,
    }


def _draw_scene(path: Path, scene: RankedImage, hits: tuple[list[bool], list[bool]]) -> None:
    """Draw the detections of both rankings, and the predicted center-ness between them."""
    height, width = scene.image.shape[:2]
    with write_figure(path, 1.0 + 2.6 * height / width, 1, 3) as (figure, axes):
        titles = ("class score only", "class and center-ness")
        for axis, detections, are_right, title in zip(
            axes[::2], (scene.by_class, scene.by_both), hits, titles, strict=True
        ):
            show_image(axis, scene.image, fade=0.35)
            for box, is_right in zip(detections.pred_boxes, are_right, strict=False):
                color, line = (TEAL, "-") if is_right else (RED, "--")
                add_box(axis, box, color, linestyle=line)
            axis.set_title(title, fontsize=10.5)
        show_image(axes[1], scene.image, fade=0.75)
        heat = axes[1].imshow(
            scene.centerness, extent=(0, width, height, 0), cmap="magma", vmin=0, vmax=1
        )
        axes[1].set_title("predicted center-ness", fontsize=10.5)
        figure.colorbar(heat, ax=axes[1], location="bottom", shrink=0.8, aspect=22, panchor=False)


def _evaluate(results: Sequence[tuple[int, Instances]]) -> dict[str, float]:
    """Compute box AP, AP50 and AP75 with pycocotools."""
    metadata = MetadataCatalog.get("shapes_val")
    to_id = {v: k for k, v in metadata.thing_dataset_id_to_contiguous_id.items()}
    rows = [
        [image_id, *BoxMode.convert(box, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS), score, to_id[k]]
        for image_id, detections in results
        for box, score, k in zip(
            detections.pred_boxes.tensor.tolist(),
            detections.scores.tolist(),
            detections.pred_classes.tolist(),
            strict=True,
        )
    ]
    with redirect_stdout(StringIO()):
        truth = COCO(metadata.json_file)
        evaluation = COCOeval(truth, truth.loadRes(np.array(rows)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: 100 * evaluation.stats[i] for i, name in enumerate(("AP", "AP50", "AP75"))}
