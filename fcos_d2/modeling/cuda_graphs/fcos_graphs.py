"""
The CUDA graphs of a whole FCOS: from images to loss terms, and from images to candidates.

N = images, M = boxes that an image has room for, T = candidates of an image.
"""

from collections.abc import Hashable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..assignment import FCOSAssigner
from ..dense_head import FCOSDenseHead
from ..fixed_shape_detections import RankedCandidates, pack_sizes
from ..losses import FCOSLosses, LossTerms, ObservedBatch
from ..predictions import DensePredictions
from .graph_cache import GraphCache
from .module_state import find_obstacle
from .recorder import CudaRecorder

__all__ = ["FCOSGraphs", "pad_annotations"]

# Boxes that an image has room for; this is doubled as often as necessary. Padding costs little, but
# each capacity needs its own recordings.
_MIN_CAPACITY = 128


class _Model(Protocol):
    """What is used of the meta-architecture FCOS."""

    backbone: nn.Module
    head_in_features: Sequence[str]
    dense_head: FCOSDenseHead


class FCOSGraphs:
    """
    The CUDA graphs of an FCOS.

    Whether boxes are removed by NMS depends on values, and the totals of the losses are summed over
    processes. So both are outside of the graphs.

    Args:
        trains (bool): Whether training steps are graphed, not only inference.
        recorder (CudaRecorder | None): Records calls; None makes a new one.
    """

    def __init__(self, *, trains: bool, recorder: CudaRecorder | None = None) -> None:
        self.trains = trains
        self.recorder = recorder or CudaRecorder()
        self.inference = GraphCache("Inference", self.recorder)
        self.training = GraphCache("Training", self.recorder)

    def can_detect(self, model: _Model, device: torch.device) -> bool:
        """Return whether the parts of a model are those that a graph of inference consists of."""
        return model.dense_head.has_standard_inference and self.recorder.can_record(device)

    def can_train(self, model: _Model, device: torch.device) -> bool:
        """Return whether the parts of a model are those that a graph of training consists of."""
        dense_head = model.dense_head
        assigner, losses = dense_head.assigner, dense_head.losses
        return (
            self.trains
            and type(dense_head) is FCOSDenseHead
            and isinstance(assigner, FCOSAssigner)
            and type(assigner) is FCOSAssigner  # not a subclass, which may do anything
            and assigner.has_fixed_shapes
            and type(losses) is FCOSLosses
            and not losses.extra_terms
            and find_obstacle([losses]) is None  # its hooks would not be called
            and self.recorder.can_record(device)
        )

    def rank_candidates(
        self, model: _Model, images: ImageList, output_sizes: Sequence[tuple[int, int]]
    ) -> RankedCandidates:
        """
        Find the candidates of a batch, see ``FCOSPostProcessor.rank``.

        Args:
            model (FCOS): The model.
            images (ImageList): The padded batch.
            output_sizes (list[tuple[int, int]]): Height and width that the detections are for.
        """
        dense_head = model.dense_head

        def rank(tensor: Tensor, sizes: Tensor) -> RankedCandidates:
            """Find the candidates of images (N, 3, H, W) with the sizes (N, 3, 2)."""
            return dense_head.postprocessor.rank(_predict(model, tensor), sizes)

        sizes = pack_sizes(images.image_sizes, output_sizes, images.tensor.device)  # (N, 3, 2)
        modules = [model.backbone, dense_head.head]
        settings = _read_settings(dense_head.postprocessor)
        return self.inference.call(rank, [images.tensor, sizes], modules, settings)

    def compute_loss_terms(
        self, model: _Model, images: ImageList, gt_instances: Sequence[Instances]
    ) -> LossTerms:
        """
        Compute the losses of a batch as sums, before they are normalized.

        Args:
            model (FCOS): The model.
            images (ImageList): The padded batch.
            gt_instances (list[Instances]): Annotations of each image.
        """
        dense_head = model.dense_head

        def compute_terms(
            tensor: Tensor, boxes: Tensor, classes: Tensor
        ) -> tuple[LossTerms, ObservedBatch | None]:
            """Compute the terms of images (N, 3, H, W) with the annotations (N, M, ...)."""
            size = (tensor.shape[2], tensor.shape[3])
            padded = [
                Instances(size, gt_boxes=Boxes(x), gt_classes=y)
                for x, y in zip(boxes, classes, strict=True)
            ]
            predictions = _predict(model, tensor)
            terms = dense_head.compute_loss_terms(predictions, padded, [size] * len(padded))
            return terms, dense_head.losses.observed

        inputs = [images.tensor, *pad_annotations(gt_instances)]
        modules = [model.backbone, dense_head.head, dense_head.losses]
        settings = (_read_settings(dense_head.assigner), _read_settings(dense_head.losses))
        terms, dense_head.losses.observed = self.training.call(
            compute_terms, inputs, modules, settings
        )
        return terms


def _predict(model: _Model, images: Tensor) -> DensePredictions:
    """Run the network of a model on images (N, 3, H, W)."""
    features = model.backbone(images)
    return model.dense_head.predict([features[x] for x in model.head_in_features])


def _read_settings(part: object) -> Hashable:
    """Return the settings of a part, which are its public attributes."""
    return tuple(
        (name, _make_hashable(value))
        for name, value in vars(part).items()
        if not name.startswith("_") and name not in ("observed", "training")
    )


def _make_hashable(value: object) -> Hashable:
    """Return a list as a tuple, and another value without a hash by its identity."""
    value = tuple(value) if isinstance(value, list) else value
    return value if isinstance(value, Hashable) else id(value)


def pad_annotations(gt_instances: Sequence[Instances]) -> tuple[Tensor, Tensor]:
    """
    Pad the boxes and classes of each image to the same number, which changes rarely.

    Args:
        gt_instances (list[Instances]): Annotations of each image.

    Returns:
        tuple[Tensor, Tensor]: (N, M, 4) float32 boxes and (N, M) int64 classes. Padding has boxes
        of width and height 0, in which there is no location.
    """
    most, capacity = max(map(len, gt_instances)), _MIN_CAPACITY
    while capacity < most:
        capacity *= 2
    boxes = pad_sequence([x.gt_boxes.tensor.float() for x in gt_instances], batch_first=True)
    classes = pad_sequence([x.gt_classes.long() for x in gt_instances], batch_first=True)
    room = capacity - most
    return F.pad(boxes, (0, 0, 0, room)), F.pad(classes, (0, room))  # (N, M, 4), (N, M)
