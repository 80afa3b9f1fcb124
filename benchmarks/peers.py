"""
One adapter for each FCOS: ours, detectron2's class and torchvision's.

The benchmarks and the parity tests build and call all of them through these adapters.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone, build_model, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.meta_arch import fcos as detectron2_fcos
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.models.detection import fcos as torchvision_fcos
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList as TorchvisionImageList
from workloads import Batch

from fcos_d2.engine.optimizer import build_optimizer
from fcos_d2.modeling.assignment.targets import LocationTargets
from fcos_d2.modeling.levels import flatten_levels
from fcos_d2.modeling.predictions import DensePredictions

Maps = Sequence[Sequence[Tensor]]  # class logits, raw ltrb and center-ness logits of each level


class Peer(ABC):
    """A detector that is compared with others: the same weights, the same data, the same work."""

    name: str  # in tables
    head_names: Mapping[str, str]  # prefixes in the state dict of our head -> of this head
    selection: str  # path of the object that has the score threshold
    score_thresh: str  # name of the threshold in it
    location_offset = 0.5  # of a location in its cell, as a fraction of the stride
    trains_in_bf16 = True  # whether autocast to bfloat16 works in training

    def __init__(self, model: DenseDetector) -> None:
        self.model = model
        weight = next(x for x in model.parameters() if x.dim() == 4 and x.shape[1] > 1)
        is_channels_last = weight.is_contiguous(memory_format=torch.channels_last)
        self.memory_format = torch.channels_last if is_channels_last else torch.contiguous_format

    @classmethod
    @abstractmethod
    def build(cls, cfg: CfgNode) -> "Peer":
        """Build the detector that a config of ours describes, with random weights."""

    def set_score_thresh(self, value: float) -> None:
        """Set the threshold of the class score (ours) or of sqrt(class score * center-ness)."""
        setattr(attrgetter(self.selection)(self), self.score_thresh, value)

    @abstractmethod
    def build_optimizer(self, cfg: CfgNode) -> torch.optim.Optimizer:
        """Build SGD as the package of the detector does."""

    @abstractmethod
    def assign(self, batch: Batch) -> object:
        """Assign a class and a box to every location, in the format of the detector."""

    def join_maps(self, maps: Maps) -> object:
        """Convert raw maps to what the head returns: a part of the detector's work."""
        return maps

    def adopt_weights(self, ours: DenseDetector) -> None:
        """Load the weights of our detector, without its scales, which must be 1."""
        self.model.backbone.load_state_dict(ours.backbone.state_dict())
        weights = ours.head.state_dict().items()
        self.model.head.load_state_dict(
            {self.rename(name): x for name, x in weights if not name.startswith("scales.")}
        )

    def rename(self, name: str) -> str:
        """Return the name in this head of a parameter of our head."""
        prefix, _, rest = name.partition(".")
        return f"{self.head_names[prefix]}.{rest}"


class Ours(Peer):
    """This project's FCOS."""

    name = "fcos_d2"
    selection, score_thresh = "model.postprocessor", "score_thresh_test"

    @classmethod
    def build(cls, cfg: CfgNode) -> "Ours":
        """Build our FCOS with detectron2's ``build_model``."""
        return cls(build_model(cfg))

    def adopt_weights(self, ours: DenseDetector) -> None:
        """Load all weights, scales included."""
        self.model.load_state_dict(ours.state_dict())

    def build_optimizer(self, cfg: CfgNode) -> torch.optim.Optimizer:
        """Build the optimizer as our trainer does."""
        return build_optimizer(cfg, self.model)

    def join_maps(self, maps: Maps) -> DensePredictions:
        """Join raw maps to ``DensePredictions``."""
        cls_logits, raw_ltrb, quality_logits = map(list, maps)
        return DensePredictions(cls_logits, raw_ltrb, quality_logits, extra={})

    def assign(self, batch: Batch) -> LocationTargets:
        """Assign targets as ``LocationTargets``."""
        return self.model.assigner(batch.instances, batch.feature_sizes)


class Detectron2(Peer):
    """detectron2's own FCOS class; inference overwrites the maps that it gets."""

    name = "detectron2"
    selection, score_thresh = "model", "test_score_thresh"
    head_names: Mapping[str, str] = {
        "cls_tower": "cls_subnet",
        "bbox_tower": "bbox_subnet",
        "cls_logits": "cls_score",
        "bbox_pred": "bbox_pred",
        "centerness": "ctrness",
    }
    trains_in_bf16 = False  # its box loss mixes two types, and PyTorch raises an error

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone | None = None) -> "Detectron2":
        """Build detectron2's FCOS with the head and thresholds of the config."""
        fcos, backbone = cfg.MODEL.FCOS, backbone or build_plain_backbone(cfg)
        model = detectron2_fcos.FCOS(
            backbone=backbone,
            head=detectron2_fcos.FCOSHead(
                input_shape=[backbone.output_shape()[name] for name in fcos.IN_FEATURES],
                conv_dims=[cfg.MODEL.FPN.OUT_CHANNELS] * fcos.NUM_CLS_CONVS,
                num_classes=fcos.NUM_CLASSES,
                norm=fcos.NORM,
            ),
            head_in_features=list(fcos.IN_FEATURES),
            num_classes=fcos.NUM_CLASSES,
            center_sampling_radius=fcos.CENTER_SAMPLING_RADIUS,
            test_topk_candidates=fcos.TOPK_CANDIDATES_TEST,
            test_nms_thresh=fcos.NMS_THRESH_TEST,
            max_detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
        )
        return cls(model.to(cfg.MODEL.DEVICE))

    def build_optimizer(self, cfg: CfgNode) -> torch.optim.Optimizer:
        """Build the optimizer as detectron2's trainer does."""
        return build_detectron2_optimizer(cfg, self.model)

    def assign(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Return the class (K is background) and the box of every location of each image."""
        anchors = self.model.anchor_generator(batch.features)
        return self.model.label_anchors(anchors, batch.instances)


class TorchvisionFCOS(DenseDetector):
    """
    torchvision's FCOS with the inputs and outputs of detectron2's models.

    Images are normalized and padded by detectron2, as for all others; torchvision's own resizing
    is left out. All else is done by the methods of torchvision's class.
    """

    def __init__(self, cfg: CfgNode, backbone: Backbone) -> None:
        assert cfg.MODEL.FCOS.NORM == "GN"  # its head has no other
        fcos, channels = cfg.MODEL.FCOS, cfg.MODEL.FPN.OUT_CHANNELS
        strides = [backbone.output_shape()[name].stride for name in fcos.IN_FEATURES]
        backbone.out_channels = channels  # its constructor requires this
        anchor_generator = AnchorGenerator(tuple((x,) for x in strides), ((1.0,),) * len(strides))
        original = torchvision_fcos.FCOS(
            backbone,
            fcos.NUM_CLASSES,
            head=torchvision_fcos.FCOSHead(channels, 1, fcos.NUM_CLASSES, fcos.NUM_CLS_CONVS),
            anchor_generator=anchor_generator,
            center_sampling_radius=fcos.CENTER_SAMPLING_RADIUS,
            nms_thresh=fcos.NMS_THRESH_TEST,
            detections_per_img=cfg.TEST.DETECTIONS_PER_IMAGE,
            topk_candidates=fcos.TOPK_CANDIDATES_TEST,
            # Only its own forward reads these: no resizing, the same normalization and padding.
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            image_mean=cfg.MODEL.PIXEL_MEAN,
            image_std=cfg.MODEL.PIXEL_STD,
            size_divisible=128,
        )
        pixels = {"pixel_mean": cfg.MODEL.PIXEL_MEAN, "pixel_std": cfg.MODEL.PIXEL_STD}
        super().__init__(backbone, original.head, list(fcos.IN_FEATURES), **pixels)
        self._original = (original,)  # in a tuple: its weights are already registered

    @property
    def original(self) -> Any:
        """The detector itself, a ``torchvision.models.detection.FCOS``."""
        return self._original[0]

    def make_anchors(self, images: ImageList, features: list[Tensor]) -> list[Tensor]:
        """Make the (R, 4) anchors of each image."""
        image_list = TorchvisionImageList(images.tensor, images.image_sizes)
        return self.original.anchor_generator(image_list, features)

    def forward_training(
        self, images: ImageList, features: Any, predictions: Any, gt_instances: list[Instances]
    ) -> dict[str, Tensor]:
        """Compute the losses by name."""
        sizes = [x.shape[2] * x.shape[3] for x in features]
        targets = to_torchvision_targets(gt_instances)
        anchors = self.make_anchors(images, features)
        return self.original.compute_loss(targets, predictions, anchors, sizes)

    def forward_inference(self, images: ImageList, features: Any, predictions: Any) -> Any:
        """Make the detections of each image."""
        sizes = [x.shape[2] * x.shape[3] for x in features]
        outputs = {key: list(x.split(sizes, dim=1)) for key, x in predictions.items()}
        anchors = [list(x.split(sizes)) for x in self.make_anchors(images, features)]
        results = self.original.postprocess_detections(outputs, anchors, images.image_sizes)
        return [
            Instances(
                size, pred_boxes=Boxes(x["boxes"]), scores=x["scores"], pred_classes=x["labels"]
            )
            for x, size in zip(results, images.image_sizes, strict=True)
        ]


def to_torchvision_targets(instances: Sequence[Instances]) -> list[dict[str, Tensor]]:
    """Convert annotations to torchvision's format."""
    return [{"boxes": x.gt_boxes.tensor, "labels": x.gt_classes} for x in instances]


class Torchvision(Peer):
    """torchvision's FCOS; its locations are the corners of cells."""

    name = "torchvision"
    selection, score_thresh = "model.original", "score_thresh"
    location_offset = 0.0
    head_names: Mapping[str, str] = {
        "cls_tower": "classification_head.conv",
        "bbox_tower": "regression_head.conv",
        "cls_logits": "classification_head.cls_logits",
        "bbox_pred": "regression_head.bbox_reg",
        "centerness": "regression_head.bbox_ctrness",
    }

    @classmethod
    def build(cls, cfg: CfgNode, backbone: Backbone | None = None) -> "Torchvision":
        """Build torchvision's FCOS with the head and thresholds of the config."""
        return cls(TorchvisionFCOS(cfg, backbone or build_plain_backbone(cfg)).to(cfg.MODEL.DEVICE))

    def build_optimizer(self, cfg: CfgNode) -> torch.optim.Optimizer:
        """Build the optimizer of torchvision's reference scripts."""
        trainable = [x for x in self.model.parameters() if x.requires_grad]
        return torch.optim.SGD(trainable, lr=cfg.SOLVER.BASE_LR, momentum=0.9, weight_decay=1e-4)

    def join_maps(self, maps: Maps) -> dict[str, Tensor]:
        """Flatten raw maps to the dict of tensors that torchvision's head returns."""
        cls_logits, raw_ltrb, centerness = maps
        return {
            "cls_logits": flatten_levels(cls_logits).contiguous(),
            "bbox_regression": flatten_levels([x.relu() for x in raw_ltrb]).contiguous(),
            "bbox_ctrness": flatten_levels(centerness).contiguous(),
        }

    def match(self, batch: Batch) -> list[Tensor]:
        """Return the index of the box of every location of each image; -1 is background."""
        original = self.model.original
        # Its method ends with a call of the head's losses: this head returns what it gets.
        matcher = SimpleNamespace(
            center_sampling_radius=original.center_sampling_radius,
            head=SimpleNamespace(compute_loss=lambda targets, outputs, anchors, matched: matched),
        )
        anchors = self.model.make_anchors(batch.images, batch.features)
        sizes = [height * width for height, width in batch.feature_sizes]
        targets = to_torchvision_targets(batch.instances)
        return type(original).compute_loss(matcher, targets, None, anchors, sizes)

    def assign(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Return the class (-1 is background) and the box of every location of each image."""
        labels, boxes = [], []
        for instances, matched in zip(batch.instances, self.match(batch), strict=True):
            if len(instances) == 0:
                labels.append(matched)
                boxes.append(instances.gt_boxes.tensor.new_zeros(len(matched), 4))
                continue
            owners = matched.clip(min=0)
            labels.append(instances.gt_classes[owners].where(matched >= 0, -1))
            boxes.append(instances.gt_boxes.tensor[owners])
        return labels, boxes


def build_plain_backbone(cfg: CfgNode) -> Backbone:
    """Build detectron2's own ResNet and FPN, with P6 and P7 from P5."""
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return FPN(
        bottom_up=build_resnet_backbone(cfg, ShapeSpec(channels=3)),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7(channels, channels, "p5"),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def build_peers(cfg: CfgNode) -> list[Peer]:
    """Build all detectors with the same weights, ours first."""
    torch.manual_seed(0)
    peers: list[Peer] = [peer.build(cfg) for peer in (Ours, Detectron2, Torchvision)]
    for peer in peers[1:]:
        peer.adopt_weights(peers[0].model)
    return peers


class Network(nn.Module):
    """Backbone and head of a model, from tensor to tensors as tracing and CUDA graphs require."""

    def __init__(self, model: DenseDetector) -> None:
        super().__init__()
        self.backbone, self.head, self.names = model.backbone, model.head, model.head_in_features

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the raw maps of normalized images."""
        maps = self.backbone(images)
        predictions = self.head([maps[name] for name in self.names])
        return (*predictions.cls_logits, *predictions.raw_ltrb, *predictions.quality_logits)

    def to_predictions(self, outputs: Any) -> DensePredictions:
        """Convert the outputs of ``forward`` to those of a head."""
        n = len(self.names)
        cls_logits, raw_ltrb, quality = (list(outputs[i : i + n]) for i in (0, n, 2 * n))
        return DensePredictions(cls_logits, raw_ltrb, quality, extra={})
