"""The meta-architecture ``FCOS``: it wires the parts and decides nothing itself."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from ..arguments import raise_faults
from ..registration import register_in
from .acceleration import Acceleration, prepare_for_speed
from .annotations import check_classes, copy_annotations
from .backbone.timm_network import warn_of_timm_networks
from .backbone.untrained import find_untrained_maps
from .config_faults import FCOS_ARGUMENTS, find_config_faults
from .dense_head import FCOSDenseHead
from .device_copies import copy_to_device
from .layers.norms import sync_norms_for_device
from .levels import select_maps
from .losses import LossTerms
from .num_classes import check_num_classes, resolve_num_classes
from .pixels import check_pixel_statistics
from .predictions import DensePredictions

__all__ = ["FCOS"]


@register_in(META_ARCH_REGISTRY)
class FCOS(DenseDetector):
    """
    FCOS: fully convolutional one-stage object detection (arXiv:1904.01355, arXiv:2006.09214).

    1. The backbone's feature maps go through one head that all levels share.
    2. Training: each location learns the class, the distances to the sides, and the quality
       (center-ness, or IoU) of the box that the target assigner gives it.
    3. Inference: select (location, class) pairs, decode their boxes, NMS.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        dense_head: FCOSDenseHead,
        head_in_features: Sequence[str] | None = None,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        inference_dtype: str = "float32",
        acceleration: Acceleration | None = None,
    ) -> None:
        """
        Wire the parts.

        Args:
            backbone (Backbone): gives the feature maps.
            dense_head (FCOSDenseHead): all that comes behind it.
            head_in_features (list[str]): the L maps to use, from fine to coarse; default: all.
            num_classes (int): K, foreground classes only.
            pixel_mean, pixel_std (list[float]): one value for each image channel.
            inference_dtype (str): "float32", or "bfloat16" or "float16", which autocast computes
                detections in.
            acceleration (Acceleration): speed options; None: the defaults.

        Raises:
            InputError: a value out of its range, or parts that do not fit together.
        """
        features = list(head_in_features) if head_in_features is not None else None
        head = dense_head.head
        super().__init__(backbone, head, features, pixel_mean=pixel_mean, pixel_std=pixel_std)
        maps = select_maps(backbone.output_shape(), self.head_in_features)
        dense_head.attach_to(self, list(maps.values()))
        check_pixel_statistics(pixel_mean, pixel_std)
        FCOS_ARGUMENTS.check({"inference_dtype": inference_dtype})
        check_num_classes(head, num_classes)
        self.num_classes = num_classes
        self.untrained_maps = find_untrained_maps(backbone, self.head_in_features)
        self.inference_dtype = getattr(torch, inference_dtype)
        prepare_for_speed(self, acceleration or Acceleration())

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        raise_faults([find_config_faults(cfg)])
        num_classes = resolve_num_classes(cfg)
        backbone = build_backbone(cfg)
        sync_norms_for_device(backbone, cfg.MODEL.DEVICE)
        warn_of_timm_networks(backbone, cfg)
        maps = select_maps(backbone.output_shape(), cfg.MODEL.FCOS.IN_FEATURES)
        return {
            "backbone": backbone,
            "dense_head": FCOSDenseHead.from_config(cfg, list(maps.values()), num_classes),
            "head_in_features": list(maps),
            "num_classes": num_classes,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "inference_dtype": cfg.MODEL.FCOS.INFERENCE_DTYPE,
            "acceleration": Acceleration.from_config(cfg),
        }

    @property
    def dense_head(self) -> FCOSDenseHead:
        """The parts behind the backbone, as they are now: any of them may be replaced."""
        return FCOSDenseHead.of(self)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """
        Compute losses in training, detections in inference.

        Args:
            batched_inputs (list[dict]): of a dataset mapper. In training each has "image",
                "instances" and optionally "gt_ignore_boxes" (Boxes in pixels of the image):
                locations strictly inside of them are not taught to be background.

        Returns:
            dict[str, Tensor]: in training, the losses by name. In inference what detectron2's
            models return: a list of {"instances": Instances}.

        Raises:
            InputError: a class that is none of the K.
        """
        if self.training:
            *inputs, ignore_boxes = self._forward_features(batched_inputs)
            # detectron2's hook knows no ignore boxes: that of a subclass may not either.
            extra: Any = {} if ignore_boxes is None else {"ignore_boxes": ignore_boxes}
            return self.forward_training(*inputs, **extra)
        if self.inference_dtype == torch.float32:  # the caller's own autocast may be on
            return super().forward(batched_inputs)
        with torch.autocast(self.device.type, self.inference_dtype):
            return super().forward(batched_inputs)

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: DensePredictions,
        gt_instances: list[Instances],
        ignore_boxes: list[Boxes] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses by name; called by forward in training."""
        return self.dense_head.compute_losses(
            predictions, gt_instances, images.image_sizes, ignore_boxes
        )

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: DensePredictions
    ) -> list[Instances]:
        """Make detections in pixels of ``images``; called by forward in inference."""
        return self.dense_head.detect(predictions, images.image_sizes)

    def compute_loss_terms(self, batched_inputs: list[dict[str, Any]]) -> LossTerms:
        """
        Compute what images with annotations add to the losses, in the mode that the model is in; in
        eval mode nothing of the model changes. For the argument see ``forward`` in training.
        """
        images, _, predictions, gt_instances, ignore_boxes = self._forward_features(batched_inputs)
        return self.dense_head.compute_loss_terms(
            predictions, gt_instances, images.image_sizes, ignore_boxes
        )

    def _forward_features(
        self, batched_inputs: list[dict[str, Any]]
    ) -> tuple[ImageList, list[Tensor], DensePredictions, list[Instances], list[Boxes] | None]:
        """Compute the arguments of forward_training."""
        assert "instances" in batched_inputs[0], "Instance annotations are missing in training!"
        check_classes([x["instances"] for x in batched_inputs], self.num_classes)
        # First of all: masks are copied, and waited for, until a GPU has done what it was given.
        gt_instances, ignore_boxes = copy_annotations(batched_inputs, self.device)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        features = [features[name] for name in self.head_in_features]
        return images, features, self.dense_head.predict(features), gt_instances, ignore_boxes

    def _move_to_current_device(self, x: Tensor) -> Tensor:
        """DenseDetector's, but the host does not wait for the copy."""
        if torch.jit.is_tracing():  # its own is traced for any device
            return super()._move_to_current_device(x)
        return copy_to_device(x, self.device)
