"""
The boxes of a training set from which nothing is learned, because they get no location.

Only sizes and boxes of a sample of images are used: no image is read.

M = boxes of an image, V = boxes of all images of the sample.
"""

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from torch import nn

from ..data.coco import CheckedDataset
from ..errors import count_words, listed
from ..modeling import FCOSAssigner, Levels, find_dense_heads
from .preflight import RunPlan
from .random_state import preserve_random_state
from .run_keys import RunKeys

__all__ = [
    "SampledImage",
    "count_without_location",
    "resize_images",
    "sample_images",
    "warn_of_boxes_without_location",
]

logger = logging.getLogger(__name__)

_MOST_IMAGES = 200  # of all training sets together; they take about 0.1 s
_BATCH = 16  # images that are assigned at once, to limit the memory
_MOST_LOST = 0.05  # the share of boxes without a location that causes no warning


class SampledImage(NamedTuple):
    """
    The annotations of one image.

    Attributes:
        height (int): Height in pixels.
        width (int): Width in pixels.
        boxes (ndarray): (M, 4) float64, xyxy in pixels, without crowds.
    """

    height: int
    width: int
    boxes: np.ndarray


def warn_of_boxes_without_location(
    model: nn.Module | None,
    augmentations: Sequence[T.Augmentation],
    plan: RunPlan,
    registered: Mapping[str, CheckedDataset],
) -> None:
    """
    Warn if many boxes get no location, and say which settings would help how much.

    Args:
        model (nn.Module | None): The model to train. Its weights are not used. Models without an
            FCOSAssigner are not checked.
        augmentations (Sequence[Augmentation]): The augmentations of training.
        plan (RunPlan): The run. Its training sets that were not checked are left out.
        registered (dict): The checked datasets by name.
    """
    assigner = _find_assigner(model)
    contents = {x: registered[x].content for x in plan.train_names if x in registered}
    if assigner is None or not contents:
        return
    with preserve_random_state():
        images = resize_images(sample_images(list(contents.values())), augmentations)
    num_boxes = sum(len(image.boxes) for image in images)
    num_lost = count_without_location(assigner, images)
    if num_lost <= _MOST_LOST * num_boxes:
        return
    remedies = [
        f"{_percent(lost, num_boxes)} with {what}"
        for what, lost in _try_remedies(assigner, images, plan.keys)
        if lost < num_lost
    ]
    logger.warning(
        "%d of %d boxes (%s) of the training set %s get no location at the sizes of the config, so "
        "nothing is learned from them (measured on %s). They are too small or too thin for "
        "the levels, or smaller boxes take all their locations. It would be: %s. See 'Small "
        "objects are missed' in docs/troubleshooting.md.",
        num_lost,
        num_boxes,
        _percent(num_lost, num_boxes),
        listed(list(contents)),
        count_words(len(images), "{image|images}"),
        "; ".join(remedies) or "the same with larger images or a finer level",
    )


def _percent(part: int, whole: int) -> str:
    """Return a share as text."""
    return f"{100 * part / whole:.0f} %"


def _find_assigner(model: nn.Module | None) -> FCOSAssigner | None:
    """Return the assigner of a model, for boxes without masks; None if it is of another kind."""
    heads = find_dense_heads(model).values() if model is not None else ()
    for head in heads:
        if isinstance(head.assigner, FCOSAssigner):
            assigner = copy.copy(head.assigner)
            # The centroid of a mask is in the box, like its center.
            assigner.center_of_mask = False
            return assigner
    return None


def sample_images(
    contents: Sequence[Mapping[str, Any]], most: int = _MOST_IMAGES
) -> list[SampledImage]:
    """
    Select images that are spread evenly over annotation files.

    Args:
        contents (list[dict]): Contents of annotation files in COCO's format, at least one.
        most (int): Maximum number of images, of all files together.
    """
    return [x for content in contents for x in _sample(content, max(1, most // len(contents)))]


def _sample(content: Mapping[str, Any], most: int) -> Iterator[SampledImage]:
    """Yield at most a number of images of one file."""
    images = content["images"]
    indices = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)
    boxes_by_id: dict[Any, list[Sequence[float]]] = {images[i]["id"]: [] for i in indices}
    for annotation in content["annotations"]:
        boxes = boxes_by_id.get(annotation["image_id"])
        if boxes is not None and not annotation.get("iscrowd", 0):
            boxes.append(annotation["bbox"])
    for i in indices:
        xywh = np.array(boxes_by_id[images[i]["id"]], dtype=float).reshape(-1, 4)  # (M, 4)
        # Boxes that training leaves out have been reported before.
        xywh = xywh[np.isfinite(xywh).all(axis=1) & (xywh[:, 2:] > 0).all(axis=1)]  # (M, 4)
        xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)  # (M, 4)
        yield SampledImage(images[i]["height"], images[i]["width"], xyxy)


class _InputWithoutPixels(T.AugInput):
    """The input of an augmentation, whose image has a size but takes no memory."""

    boxes: np.ndarray

    def __init__(self, height: int, width: int, boxes: np.ndarray) -> None:
        super().__init__(_blank(height, width), boxes=boxes)

    def transform(self, tfm: T.Transform) -> None:
        """Transform the size of the image, and the boxes."""
        if isinstance(tfm, T.TransformList):
            for part in tfm.transforms:
                self.transform(part)
            return
        self.boxes = tfm.apply_box(self.boxes)
        if isinstance(tfm, T.ResizeTransform):  # the only common transform that computes pixels
            self.image = _blank(tfm.new_h, tfm.new_w)
        else:
            self.image = tfm.apply_image(self.image)


def _blank(height: int, width: int) -> np.ndarray:
    """Return an (H, W, 3) uint8 view of a single number."""
    return np.broadcast_to(np.zeros((), np.uint8), (height, width, 3))


def resize_images(
    images: Iterable[SampledImage], augmentations: Sequence[T.Augmentation]
) -> list[SampledImage]:
    """
    Apply augmentations to sizes and boxes, and clip the boxes as a dataset mapper does.

    Args:
        images (Iterable[SampledImage]): The images.
        augmentations (Sequence[Augmentation]): Augmentations. Those that look at pixels see black
            images.

    Returns:
        list[SampledImage]: The images without boxes that are outside.
    """
    augment = T.AugmentationList(augmentations)
    resized = []
    for image in images:
        augmented = _InputWithoutPixels(*image)
        augment(augmented)
        height, width = augmented.image.shape[:2]
        boxes = Boxes(torch.from_numpy(augmented.boxes).float())
        boxes.clip((height, width))
        boxes = boxes[boxes.nonempty(threshold=1e-5)]  # detectron2's threshold in training
        resized.append(SampledImage(height, width, boxes.tensor.double().numpy()))
    return resized


def count_without_location(assigner: FCOSAssigner, images: Sequence[SampledImage]) -> int:
    """
    Count the boxes that are assigned to no location.

    Args:
        assigner (FCOSAssigner): The assigner of the model.
        images (Sequence[SampledImage]): Images at the sizes of training.
    """
    batches = [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]
    return sum(_count_without_location(assigner, batch) for batch in batches)


def _count_without_location(assigner: FCOSAssigner, images: Sequence[SampledImage]) -> int:
    """Count the boxes of a batch that are assigned to no location."""
    gt_instances = []
    for image in images:
        instances = Instances((image.height, image.width))
        instances.gt_boxes = Boxes(torch.from_numpy(image.boxes).float())
        instances.gt_classes = torch.zeros(len(image.boxes), dtype=torch.int64)
        gt_instances.append(instances)
    # Boxes get no locations outside of their image, so all images can have the largest maps.
    height, width = max(x.height for x in images), max(x.width for x in images)
    sizes = [(-(-height // stride), -(-width // stride)) for stride in assigner.levels.strides]
    targets = assigner(gt_instances, sizes)
    return sum(map(len, gt_instances)) - len(targets.gt_idxs[targets.is_positive].unique())


def _try_remedies(
    assigner: FCOSAssigner, images: Sequence[SampledImage], keys: RunKeys
) -> Iterator[tuple[str, int]]:
    """Yield settings that may help, and the number of boxes that they leave without a location."""
    for factor in (2, 4):
        larger = [
            SampledImage(factor * x.height, factor * x.width, factor * x.boxes) for x in images
        ]
        lost = count_without_location(assigner, larger)
        yield f"{factor} times larger images ({keys.image_size})", lost
        if lost <= _MOST_LOST * sum(len(image.boxes) for image in images):
            break
    levels, radius = assigner.levels, assigner.center_sampling_radius
    sizes = [high for _, high in assigner.size_ranges[:-1]]
    finest = levels.strides[0]
    if finest > 1:
        strides = [finest // 2, *levels.strides]
        finer = FCOSAssigner(
            levels=Levels(strides, levels.location_offset, levels.box_activation),
            sizes_of_interest=[(sizes[0] if sizes else 8 * finest) / 2, *sizes],
            center_sampling_radius=radius,
        )
        yield f"one more level, of stride {strides[0]}", count_without_location(finer, images)
    if radius > 0:
        whole_box = FCOSAssigner(levels=levels, sizes_of_interest=sizes, center_sampling_radius=0)
        yield f"{keys.center_sampling_radius} 0", count_without_location(whole_box, images)
