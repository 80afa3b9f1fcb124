"""The meta-architecture ``FCOS``: it wires the parts and decides nothing itself."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ..config import resolve_num_classes
from ..config_rules import check_config, check_value
from ..errors import InputError
from ..registration import register_in
from .device_copies import copy_to_device
from .fcos_losses import FCOSLosses, LossTerms
from .fitting_parts import check_classes, check_fits, find_untrained_maps
from .folding import fold_frozen_norms
from .head import build_head
from .ignore_regions import locations_in_boxes
from .inference import decode_candidates, select_candidates, suppress
from .levels import Levels
from .norms import sync_norms_for_device
from .predictions import DensePredictions
from .target_assignment import FCOSAssigner, LocationTargets, build_target_assigner

__all__ = ["FCOS"]

logger = logging.getLogger(__name__)


@register_in(META_ARCH_REGISTRY)
class FCOS(DenseDetector):
    """
    FCOS: fully convolutional one-stage object detection (arXiv:1904.01355, arXiv:2006.09214).

    1. The backbone's feature maps go through one head that all levels share.
    2. Training: each location learns the class, the distances to the sides, and the quality
       (centre-ness, or IoU) of the box that the target assigner gives it.
    3. Inference: select (location, class) pairs, decode their boxes, NMS.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: Sequence[str] | None = None,
        num_classes: int,
        target_assigner: Any = None,
        levels: Levels | None = None,
        box_loss_type: str = "giou",
        box_quality: str = "centerness",
        centerness_weighted_box_loss: bool = True,
        loss_normalizer: str = "fg",
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        loss_weight_cls: float = 1.0,
        loss_weight_loc: float = 1.0,
        loss_weight_quality: float = 1.0,
        test_score_thresh: float = 0.05,
        test_thresh_with_quality: bool = False,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.6,
        max_detections_per_image: int = 100,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        fold_frozen_bn: bool = True,
        channels_last: bool = True,
        compile_networks: bool = False,
        inference_dtype: str = "float32",
    ) -> None:
        """
        Args:
            backbone (Backbone): gives the feature maps; their strides come from its
                ``output_shape()``.
            head (nn.Module): such as :class:`FCOSHead`.
            head_in_features (list[str]): the L maps to use, from fine to coarse; default: all.
            num_classes (int): K, foreground classes only.
            target_assigner: see TARGET_ASSIGNER_REGISTRY; default: :class:`FCOSAssigner` as it is,
                which wants five levels.
            levels (Levels): of the maps in ``head_in_features``; default: those of the backbone.
            box_loss_type, box_quality, loss_normalizer (str), centerness_weighted_box_loss (bool):
                see :class:`.fcos_losses.FCOSLosses`.
            focal_loss_alpha, focal_loss_gamma (float): see the same.
            loss_weight_cls, loss_weight_loc, loss_weight_quality (float): factors of the losses.
            test_score_thresh (float): class scores must be above it, see
                :func:`.inference.select_candidates`.
            test_thresh_with_quality (bool): class score times quality must be above it.
            test_topk_candidates (int): the best of each image and level that go into NMS.
            test_nms_thresh (float): IoU above which the lesser box of a class is dropped.
            max_detections_per_image (int): the best that are returned.
            pixel_mean, pixel_std (list[float]): one value an image channel.
            fold_frozen_bn (bool): fold the backbone's FrozenBatchNorm2d into its convolutions, in
                place, see :func:`.folding.fold_frozen_norms`.
            channels_last (bool): keep weights and maps in that memory format.
            compile_networks (bool): torch.compile for the backbone and the head, each one graph for
                images of all sizes. The rest is fast as it is.
            inference_dtype (str): "float32", or "bfloat16" or "float16", which autocast computes
                detections in.

        Raises:
            InputError: a value out of its range, or levels that do not fit together.
        """
        features = list(head_in_features) if head_in_features is not None else None
        super().__init__(backbone, head, features, pixel_mean=pixel_mean, pixel_std=pixel_std)
        of_backbone = Levels.of_backbone(backbone, self.head_in_features)
        self.levels = levels or of_backbone
        if self.levels.strides != of_backbone.strides:
            raise InputError(
                f"levels.strides = {list(self.levels.strides)}, but the strides of the maps are "
                f"{list(of_backbone.strides)}."
            )
        self.untrained_maps = find_untrained_maps(backbone, self.head_in_features)
        if self.untrained_maps:
            logger.warning(
                "The backbone makes %s, which no level of the head uses: their weights never get a "
                "gradient, and several processes cannot train the model.",
                self.untrained_maps,
            )
        if target_assigner is None:
            target_assigner = FCOSAssigner(levels=self.levels)
        for key, value in (
            ("MODEL.FCOS.SCORE_THRESH_TEST", test_score_thresh),
            ("MODEL.FCOS.THRESH_WITH_CTR", test_thresh_with_quality),
            ("MODEL.FCOS.TOPK_CANDIDATES_TEST", test_topk_candidates),
            ("MODEL.FCOS.NMS_THRESH_TEST", test_nms_thresh),
            ("TEST.DETECTIONS_PER_IMAGE", max_detections_per_image),
            ("MODEL.PIXEL_MEAN", pixel_mean),
            ("MODEL.PIXEL_STD", pixel_std),
            ("MODEL.FCOS.FOLD_FROZEN_BN", fold_frozen_bn),
            ("MODEL.FCOS.CHANNELS_LAST", channels_last),
            ("MODEL.FCOS.COMPILE", compile_networks),
            ("MODEL.FCOS.INFERENCE_DTYPE", inference_dtype),
        ):
            check_value(key, value)
        if len(pixel_mean) != len(pixel_std):
            raise InputError(
                f"MODEL.PIXEL_MEAN has {len(pixel_mean)} values, one an image channel, but "
                f"MODEL.PIXEL_STD has {len(pixel_std)}."
            )
        check_fits(
            "head",
            head,
            {
                "num_classes": num_classes,
                "num_levels": len(self.levels),
                "in_channels": backbone.output_shape()[self.head_in_features[0]].channels,
                "predict_quality": box_quality != "none",
            },
        )
        self.num_classes = num_classes
        self.target_assigner = target_assigner
        self.test_score_thresh = test_score_thresh
        self.test_thresh_with_quality = test_thresh_with_quality
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.inference_dtype = getattr(torch, inference_dtype)
        self.losses = FCOSLosses(
            levels=self.levels,
            box_loss_type=box_loss_type,
            box_quality=box_quality,
            centerness_weighted_box_loss=centerness_weighted_box_loss,
            loss_normalizer=loss_normalizer,
            focal_loss_alpha=focal_loss_alpha,
            focal_loss_gamma=focal_loss_gamma,
            loss_weight_cls=loss_weight_cls,
            loss_weight_loc=loss_weight_loc,
            loss_weight_quality=loss_weight_quality,
        )
        if fold_frozen_bn:
            fold_frozen_norms(self.backbone)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        if compile_networks:
            # In place, so that names in the state dict stay as they are.
            for network in (self.backbone, self.head):
                network.compile(dynamic=True)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        check_config(cfg)
        fcos = cfg.MODEL.FCOS
        num_classes = resolve_num_classes(cfg)
        box_quality = fcos.BOX_QUALITY
        backbone = build_backbone(cfg)
        levels = Levels.of_backbone(
            backbone,
            fcos.IN_FEATURES,
            location_offset=fcos.LOCATION_OFFSET,
            box_activation=fcos.BOX_ACTIVATION,
        )
        shapes = backbone.output_shape()
        head = build_head(
            cfg,
            [shapes[name] for name in fcos.IN_FEATURES],
            num_classes,
            box_quality != "none",
        )
        for part in (backbone, head):
            sync_norms_for_device(part, cfg.MODEL.DEVICE)
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": fcos.IN_FEATURES,
            "num_classes": num_classes,
            "target_assigner": build_target_assigner(cfg, levels),
            "levels": levels,
            "box_loss_type": fcos.LOC_LOSS_TYPE,
            "box_quality": box_quality,
            "centerness_weighted_box_loss": fcos.CTR_WEIGHTED_LOC_LOSS,
            "loss_normalizer": fcos.LOSS_NORMALIZER,
            "focal_loss_alpha": fcos.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": fcos.FOCAL_LOSS_GAMMA,
            "loss_weight_cls": fcos.LOSS_WEIGHT_CLS,
            "loss_weight_loc": fcos.LOSS_WEIGHT_LOC,
            "loss_weight_quality": fcos.LOSS_WEIGHT_QUALITY,
            "test_score_thresh": fcos.SCORE_THRESH_TEST,
            "test_thresh_with_quality": fcos.THRESH_WITH_CTR,
            "test_topk_candidates": fcos.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": fcos.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "fold_frozen_bn": fcos.FOLD_FROZEN_BN,
            "channels_last": fcos.CHANNELS_LAST,
            "compile_networks": fcos.COMPILE,
            "inference_dtype": fcos.INFERENCE_DTYPE,
        }

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """
        DenseDetector's, which in training also sees what only the dictionaries carry.

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
        if not self.training:
            return self._detect(batched_inputs)
        return self.forward_training(*self._see(batched_inputs))

    def _detect(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        if self.inference_dtype == torch.float32:  # the caller's own autocast may be on
            return super().forward(batched_inputs)
        with torch.autocast(self.device.type, self.inference_dtype):
            return super().forward(batched_inputs)

    def _move_to_current_device(self, x: Tensor) -> Tensor:
        """DenseDetector's, but that nobody waits for the copy."""
        if torch.jit.is_tracing():  # its own is traced for any device
            return super()._move_to_current_device(x)
        return copy_to_device(x, self.device)

    def sum_up_losses(self, batched_inputs: list[dict[str, Any]]) -> LossTerms:
        """
        What images with annotations add to the losses, in the mode that the model is in: in eval
        mode batch norms and dropout do what they do in inference, and nothing of the model changes.

        Args:
            batched_inputs (list[dict]): as :meth:`forward` wants them in training.
        """
        _, features, predictions, gt_instances, ignore_boxes = self._see(batched_inputs)
        return self.losses.sum_up(predictions, *self._assign(features, gt_instances, ignore_boxes))

    def _see(
        self, batched_inputs: list[dict[str, Any]]
    ) -> tuple[ImageList, list[Tensor], DensePredictions, list[Instances], list[Boxes] | None]:
        """The arguments of forward_training."""
        assert "instances" in batched_inputs[0], "Instance annotations are missing in training!"
        gt_instances = [x["instances"] for x in batched_inputs]
        check_classes(gt_instances, self.num_classes)
        # First of all: masks are copied, and waited for, until a GPU has done what it was given.
        gt_instances = [copy_to_device(instances, self.device) for instances in gt_instances]
        ignore_boxes = self._ignore_boxes(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        features = [features[name] for name in self.head_in_features]
        predictions = self.head(features)
        return images, features, predictions, gt_instances, ignore_boxes

    def _ignore_boxes(self, batched_inputs: list[dict[str, Any]]) -> list[Boxes] | None:
        """Those of each image, or None where no image has any."""
        none = Boxes(torch.zeros(0, 4))
        boxes_per_image = [x.get("gt_ignore_boxes", none) for x in batched_inputs]
        if not any(len(boxes) for boxes in boxes_per_image):
            return None
        return [copy_to_device(boxes, self.device) for boxes in boxes_per_image]

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: DensePredictions,
        gt_instances: list[Instances],
        ignore_boxes: list[Boxes] | None = None,
    ) -> dict[str, Tensor]:
        """Called by forward in training; returns the losses by name."""
        return self.losses(predictions, *self._assign(features, gt_instances, ignore_boxes))

    def _assign(
        self,
        features: list[Tensor],
        gt_instances: list[Instances],
        ignore_boxes: list[Boxes] | None,
    ) -> tuple[LocationTargets, Tensor | None]:
        """The targets, and which locations lie in an ignore box."""
        feature_sizes = [(x.shape[2], x.shape[3]) for x in features]
        targets = self.target_assigner(gt_instances, feature_sizes)
        is_in_ignore_box = None
        if ignore_boxes is not None:
            is_in_ignore_box = locations_in_boxes(ignore_boxes, feature_sizes, self.levels)
        return targets, is_in_ignore_box

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: DensePredictions
    ) -> list[Instances]:
        """Called by DenseDetector.forward in inference; boxes are in pixels of its inputs."""
        candidates = select_candidates(
            predictions.cls_logits,
            predictions.quality_logits,
            self.test_score_thresh,
            self.test_topk_candidates,
            self.test_thresh_with_quality,
        )
        boxes = decode_candidates(candidates, predictions.raw_ltrb, self.levels)
        # They come image by image: where the next ones start is looked up once for all.
        later = torch.arange(1, len(images.image_sizes), device=boxes.device)
        starts = torch.searchsorted(candidates.image_idxs, later).tolist()
        boxes_of, scores_of, classes_of = (
            x.tensor_split(starts) for x in (boxes, candidates.scores, candidates.classes)
        )
        return [
            suppress(*found, self.test_nms_thresh, self.max_detections_per_image)
            for found in zip(boxes_of, scores_of, classes_of, images.image_sizes, strict=True)
        ]
