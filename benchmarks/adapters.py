"""
One way to ask each FCOS for the same work on the same data.

Whatever is no work of the detector's own (turning annotations into its format, copying maps that it
would overwrite) is done in ``prepare``, which nobody times.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer as build_optimizer_of_detectron2
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from measuring import Work, autocast, precision
from peers import (
    DETECTRON2_NAMES,
    TORCHVISION_NAMES,
    TorchvisionFCOS,
    build_detectron2_fcos,
    build_plain_backbone,
    build_torchvision_fcos,
    renamed,
)
from torch import Tensor, nn
from workloads import Batch, solver_cfg

from fcos_d2.engine.optimizer import build_optimizer
from fcos_d2.modeling.predictions import DensePredictions

__all__ = [
    "ADAPTERS",
    "Adapter",
    "Detectron2",
    "Ours",
    "Torchvision",
    "build_adapters",
]


class Adapter(ABC):
    """
    A detector in the role of a peer.

    Attributes:
        name (str): as tables show it.
        model (DenseDetector): whose forward_training and forward_inference take raw predictions.
        untrainable (dict[str, str]): precision that it cannot train in -> why.
        thresh_name (str): attribute of ``thresh_owner`` that is the score threshold.
        thresholds_class_score (bool): that is of the class score, and not of the product's root.
        memory_format (torch.memory_format): of the model's weights and maps.
    """

    name: str
    untrainable: Mapping[str, str] = MappingProxyType({})
    thresh_name = "test_score_thresh"
    thresholds_class_score = False

    def __init__(self, model: Any) -> None:
        self.model = model
        weight = next(x for x in model.parameters() if x.dim() == 4 and x.shape[1] > 1)
        is_channels_last = weight.is_contiguous(memory_format=torch.channels_last)
        self.memory_format = torch.channels_last if is_channels_last else torch.contiguous_format

    @staticmethod
    @abstractmethod
    def build(cfg: CfgNode) -> nn.Module:
        """With random weights."""

    @abstractmethod
    def adopt_weights(self, ours: Any) -> None:
        """Take over the weights of our detector."""

    @abstractmethod
    def targets(self, batch: Batch) -> Work:
        """Class and box of each location, from boxes and sizes of maps alone."""

    @abstractmethod
    def labels(self, batch: Batch, num_classes: int) -> Tensor:
        """(N, R) class that each location is assigned, K = background."""

    @contextlib.contextmanager
    def score_thresh(self, class_score: float, product_root: float) -> Iterator[None]:
        """
        Args:
            class_score (float): threshold of those that compare the class score.
            product_root (float): of those that compare sqrt(class score * centre-ness).
        """
        owner = self.thresh_owner
        before = getattr(owner, self.thresh_name)
        value = class_score if self.thresholds_class_score else product_root
        setattr(owner, self.thresh_name, value)
        try:
            yield
        finally:
            setattr(owner, self.thresh_name, before)

    @property
    def thresh_owner(self) -> Any:
        """What has the score threshold as an attribute."""
        return self.model

    @abstractmethod
    def make_optimizer(self) -> torch.optim.Optimizer:
        """SGD as it comes with the detector; its steps of length 0 leave the weights alone."""

    def predictions_of(self, maps: list[list[Tensor]]) -> Any:
        """What the rest of the detector wants, from raw maps; part of the work."""
        return maps

    def _copies(self, maps: list[list[Tensor]]) -> list[list[Tensor]]:
        """In the memory format that the model's own maps have."""
        return [[x.clone(memory_format=self.memory_format) for x in levels] for levels in maps]

    def _eval(self) -> None:
        if self.model.training:  # a mode that stays is set once, as users do it
            self.model.eval()

    def losses(self, batch: Batch, maps: list[list[Tensor]]) -> Work:
        """Targets and losses of raw maps, forward and backward."""
        images, features = batch.make_image_list(), batch.make_empty_features()

        def prepare() -> list[list[Tensor]]:
            self.model.train()
            return [[x.requires_grad_() for x in levels] for levels in self._copies(maps)]

        def run(leaves: list[list[Tensor]]) -> None:
            predictions = self.predictions_of(leaves)
            with EventStorage():
                losses = self.model.forward_training(images, features, predictions, batch.instances)
            sum(losses.values()).backward()

        return Work(run, prepare)

    def selection(self, batch: Batch, maps: list[list[Tensor]]) -> Work:
        """From raw maps to detections."""
        images, features = batch.make_image_list(), batch.make_empty_features()

        def prepare() -> list[list[Tensor]]:
            self._eval()
            return self._copies(maps)

        @torch.no_grad()
        def run(copies: list[list[Tensor]]) -> list[Instances]:
            predictions = self.predictions_of(copies)
            return self.model.forward_inference(images, features, predictions)

        return Work(run, prepare)

    def inference(self, batch: Batch, precision_name: str = "float32") -> Work:
        """From images to detections."""
        inputs = [{"image": image} for image in batch.draw_images()]

        @torch.no_grad()
        def run(_: None) -> Any:
            with precision(precision_name), autocast(precision_name, batch.device):
                return self.model(inputs)

        def prepare() -> None:
            self._eval()

        return Work(run, prepare)

    def training_step(self, batch: Batch, precision_name: str = "float32") -> Work:
        """Forward, backward and a step of ``make_optimizer``."""
        inputs = [
            {"image": image, "instances": instances}
            for image, instances in zip(batch.draw_images(), batch.instances, strict=True)
        ]
        optimizer = self.make_optimizer()

        def prepare() -> None:
            self.model.train()
            optimizer.zero_grad(set_to_none=True)

        def run(_: None) -> None:
            with precision(precision_name):
                with EventStorage(), autocast(precision_name, batch.device):
                    losses = sum(self.model(inputs).values())
                losses.backward()
                optimizer.step()

        return Work(run, prepare)


class Ours(Adapter):
    """From YAML, with the defaults that it ships with."""

    name = "fcos_d2"
    thresholds_class_score = True
    thresh_name = "score_thresh_test"

    @property
    def thresh_owner(self) -> Any:
        return self.model.postprocessor

    @staticmethod
    def build(cfg: CfgNode) -> nn.Module:
        return build_model(cfg)

    def adopt_weights(self, ours: Any) -> None:
        self.model.load_state_dict(ours.state_dict())

    def make_optimizer(self) -> torch.optim.Optimizer:
        return build_optimizer(solver_cfg(), self.model)

    def predictions_of(self, maps: list[list[Tensor]]) -> DensePredictions:
        cls_logits, raw_ltrb, quality_logits = maps
        return DensePredictions(cls_logits, raw_ltrb, quality_logits, extra={})

    def targets(self, batch: Batch) -> Work:
        assign, sizes = self.model.assigner, batch.feature_sizes
        return Work(lambda _: assign(batch.instances, sizes))

    def labels(self, batch: Batch, num_classes: int) -> Tensor:
        return self.targets(batch).run(None).labels(num_classes)


class Detectron2(Adapter):
    """detectron2's own class; in inference it overwrites the logits that it is given."""

    name = "detectron2"
    untrainable = MappingProxyType(
        {"bf16": "its box loss mixes two types under autocast, and stops"}
    )

    @staticmethod
    def build(cfg: CfgNode) -> nn.Module:
        return build_detectron2_fcos(cfg, build_plain_backbone(cfg)).to(cfg.MODEL.DEVICE)

    def adopt_weights(self, ours: Any) -> None:
        self.model.backbone.load_state_dict(ours.backbone.state_dict())
        self.model.head.load_state_dict(renamed(ours.head.state_dict(), DETECTRON2_NAMES))

    def make_optimizer(self) -> torch.optim.Optimizer:
        return build_optimizer_of_detectron2(solver_cfg(), self.model)

    def targets(self, batch: Batch) -> Work:
        features = batch.make_empty_features()

        def run(_: None) -> Any:
            anchors = self.model.anchor_generator(features)
            return self.model.label_anchors(anchors, batch.instances)

        return Work(run)

    def labels(self, batch: Batch, num_classes: int) -> Tensor:
        labels, _ = self.targets(batch).run(None)
        return torch.stack(labels)


class Torchvision(Adapter):
    """torchvision's, on the backbone of detectron2; its locations are corners of cells."""

    name = "torchvision"
    thresh_name = "score_thresh"

    @staticmethod
    def build(cfg: CfgNode) -> nn.Module:
        return build_torchvision_fcos(cfg, build_plain_backbone(cfg)).to(cfg.MODEL.DEVICE)

    def adopt_weights(self, ours: Any) -> None:
        self.model.backbone.load_state_dict(ours.backbone.state_dict())
        self.model.head.load_state_dict(renamed(ours.head.state_dict(), TORCHVISION_NAMES))

    def make_optimizer(self) -> torch.optim.Optimizer:
        """That of its reference scripts."""
        trainable = [x for x in self.model.parameters() if x.requires_grad]
        return torch.optim.SGD(trainable, lr=0.0, momentum=0.9, weight_decay=1e-4)

    def targets(self, batch: Batch) -> Work:
        images, features = batch.make_image_list(), batch.make_empty_features()
        num_per_level = [x.shape[2] * x.shape[3] for x in features]
        targets = [{"boxes": x.gt_boxes.tensor, "labels": x.gt_classes} for x in batch.instances]
        # Its matching ends in a call of the head's losses: this head gathers instead, as they do.
        matcher = SimpleNamespace(
            center_sampling_radius=self.model.center_sampling_radius,
            head=SimpleNamespace(compute_loss=_gather_matched),
        )

        def run(_: None) -> Any:
            anchors = self.model.anchors_of(images, features)
            return TorchvisionFCOS.compute_loss(matcher, targets, None, anchors, num_per_level)

        return Work(run)

    def labels(self, batch: Batch, num_classes: int) -> Tensor:
        labels, _ = self.targets(batch).run(None)
        return torch.stack(labels).where(torch.stack(labels) >= 0, num_classes)

    def predictions_of(self, maps: list[list[Tensor]]) -> Any:
        return self.model.join_maps(maps)


def _gather_matched(
    targets: list[dict[str, Tensor]], outputs: Any, anchors: list[Tensor], matched: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """For each image the class (-1 = background) and the box of each location."""
    labels, boxes = [], []
    for target, matched_idxs in zip(targets, matched, strict=True):
        if len(target["labels"]) == 0:
            labels.append(torch.full_like(matched_idxs, -1))
            boxes.append(target["boxes"].new_zeros(len(matched_idxs), 4))
            continue
        owners = matched_idxs.clip(min=0)
        labels.append(target["labels"][owners].where(matched_idxs >= 0, -1))
        boxes.append(target["boxes"][owners])
    return labels, boxes


ADAPTERS: list[type[Adapter]] = [Ours, Detectron2, Torchvision]


def build_adapters(cfg: CfgNode) -> list[Adapter]:
    """All of them, with one set of weights."""
    torch.manual_seed(0)
    adapters = [adapter(adapter.build(cfg)) for adapter in ADAPTERS]
    for adapter in adapters[1:]:
        adapter.adopt_weights(adapters[0].model)
    return adapters
