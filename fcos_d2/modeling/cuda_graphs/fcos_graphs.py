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
from ..postprocessing import FCOSPostProcessor
from ..predictions import DensePredictions
from .graphed import Graphed
from .recorder import CudaRecorder
from .recording import Recorder

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
    The graphed functions of an FCOS.

    Whether boxes are removed by NMS depends on values, and the totals of the losses are summed over
    processes. So both are outside of the graphs.

    Args:
        model (FCOS): The model.
        trains (bool): Whether training steps are graphed, not only inference.
        recorder (Recorder | None): Records calls; None uses CUDA graphs.
    """

    def __init__(self, model: _Model, *, trains: bool, recorder: Recorder | None = None) -> None:
        self.model = model
        self.trains = trains
        self.recorder = recorder or CudaRecorder()
        self._detect = Graphed(
            "Inference", self._rank_candidates, self._modules, self.recorder, self._read_settings
        )
        self._train = Graphed(
            "Training", self._compute_terms, self._modules, self.recorder, self._read_settings
        )

    def can_detect(self, device: torch.device) -> bool:
        """Return whether device and post-processing allow a graph of inference."""
        is_known = type(self.model.dense_head.postprocessor) is FCOSPostProcessor
        return is_known and self.recorder.can_record(device)

    def can_train(self, device: torch.device) -> bool:
        """Return whether device, assigner and losses allow a graph of training."""
        assigner, losses = self.model.dense_head.assigner, self.model.dense_head.losses
        return (
            self.trains
            and isinstance(assigner, FCOSAssigner)
            and type(assigner) is FCOSAssigner  # not a subclass, which may do anything
            and assigner.has_fixed_shapes
            and type(losses) is FCOSLosses
            and not losses.extra_terms
            and self.recorder.can_record(device)
        )

    def rank_candidates(
        self, images: ImageList, output_sizes: Sequence[tuple[int, int]]
    ) -> RankedCandidates:
        """
        Find the candidates of a batch, see ``FCOSPostProcessor.rank``.

        Args:
            images (ImageList): The padded batch.
            output_sizes (list[tuple[int, int]]): Height and width that the detections are for.
        """
        sizes = pack_sizes(images.image_sizes, output_sizes, images.tensor.device)  # (N, 3, 2)
        return self._detect(images.tensor, sizes)

    def compute_loss_terms(self, images: ImageList, gt_instances: Sequence[Instances]) -> LossTerms:
        """
        Compute the losses of a batch as sums, before they are normalized.

        Args:
            images (ImageList): The padded batch.
            gt_instances (list[Instances]): Annotations of each image.
        """
        losses = self.model.dense_head.losses
        terms, losses.observed = self._train(images.tensor, *pad_annotations(gt_instances))
        return terms

    def _rank_candidates(self, images: Tensor, sizes: Tensor) -> RankedCandidates:
        """Find the candidates of images (N, 3, H, W) with the sizes (N, 3, 2)."""
        return self.model.dense_head.postprocessor.rank(self._predict(images), sizes)

    def _compute_terms(
        self, images: Tensor, boxes: Tensor, classes: Tensor
    ) -> tuple[LossTerms, ObservedBatch | None]:
        """Compute the loss terms of images (N, 3, H, W) with the annotations (N, M, ...)."""
        dense_head, size = self.model.dense_head, (images.shape[2], images.shape[3])
        gt_instances = [
            Instances(size, gt_boxes=Boxes(x), gt_classes=y)
            for x, y in zip(boxes, classes, strict=True)
        ]
        sizes = [size] * len(gt_instances)
        terms = dense_head.compute_loss_terms(self._predict(images), gt_instances, sizes)
        return terms, dense_head.losses.observed

    def _predict(self, images: Tensor) -> DensePredictions:
        """Run the network on images (N, 3, H, W)."""
        features = self.model.backbone(images)
        return self.model.dense_head.predict([features[x] for x in self.model.head_in_features])

    def _modules(self) -> list[nn.Module]:
        """Return the modules of the network."""
        dense_head = self.model.dense_head
        return [self.model.backbone, dense_head.head, dense_head.losses]

    def _read_settings(self) -> Hashable:
        """Return the settings of the parts that are not modules, and of the losses."""
        dense_head = self.model.dense_head
        parts = (dense_head.assigner, dense_head.postprocessor, dense_head.losses)
        return tuple(
            (type(part), name, repr(value))
            for part in parts
            for name, value in vars(part).items()
            if not name.startswith("_") and name != "observed"
        )


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
