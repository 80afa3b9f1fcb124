"""The meta-architecture ``FCOS``: it wires the parts and decides nothing itself."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList, Instances
from detectron2.utils import comm
from torch import Tensor, nn

from ..config import resolve_num_classes
from ..config_rules import check_config, check_value
from ..errors import InputError
from ..registration import register_in
from .box_coding import activate_ltrb
from .head import FCOSHead
from .inference import decode_candidates, select_candidates, suppress
from .locations import flatten_levels
from .losses import box_loss, centerness_targets, focal_loss_sum
from .target_assignment import FCOSAssigner, LocationTargets, build_target_assigner

__all__ = ["FCOS"]

_MOVING_MOMENTUM = 0.9

Predictions = tuple[list[Tensor], list[Tensor], list[Tensor]]


@register_in(META_ARCH_REGISTRY)
class FCOS(DenseDetector):
    """
    FCOS: fully convolutional one-stage object detection (arXiv:1904.01355, arXiv:2006.09214).

    1. The backbone's feature maps go through one head that all levels share.
    2. Training: each location learns the class, the distances to the sides, and the centre-ness of
       the box that the target assigner gives it.
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
        location_offset: float = 0.5,
        box_activation: str = "relu",
        box_loss_type: str = "giou",
        loss_normalizer: str = "fg",
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        test_score_thresh: float = 0.05,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.6,
        max_detections_per_image: int = 100,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
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
            location_offset (float): 0.5 or 0, see :func:`.locations.axis_locations`.
            box_activation (str): "relu" or "exp", see :func:`.box_coding.activate_ltrb`.
            box_loss_type (str): see :func:`.losses.box_loss`.
            loss_normalizer (str): "fg" or "moving_fg": then a buffer keeps a moving average of the
                positives of all processes (momentum 0.9).
            focal_loss_alpha, focal_loss_gamma (float): see :func:`.losses.focal_loss_sum`.
            test_score_thresh (float): class scores must be above it, see
                :func:`.inference.select_candidates`.
            test_topk_candidates (int): the best of each image and level that go into NMS.
            test_nms_thresh (float): IoU above which the lesser box of a class is dropped.
            max_detections_per_image (int): the best that are returned.
            pixel_mean, pixel_std (list[float]): one value an image channel.

        Raises:
            InputError: a value out of its range, or levels that do not fit together.
        """
        features = list(head_in_features) if head_in_features is not None else None
        super().__init__(backbone, head, features, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.strides = _strides_of(backbone, self.head_in_features)
        if target_assigner is None:
            target_assigner = FCOSAssigner(strides=self.strides, location_offset=location_offset)
        if getattr(target_assigner, "location_offset", location_offset) != location_offset:
            raise InputError(
                f"The target assigner's location_offset is {target_assigner.location_offset}, the "
                f"model's is {location_offset}: it would be trained at other places than tested."
            )
        for key, value in (
            ("MODEL.FCOS.BOX_ACTIVATION", box_activation),
            ("MODEL.FCOS.LOC_LOSS_TYPE", box_loss_type),
            ("MODEL.FCOS.LOSS_NORMALIZER", loss_normalizer),
            ("MODEL.FCOS.FOCAL_LOSS_ALPHA", focal_loss_alpha),
            ("MODEL.FCOS.FOCAL_LOSS_GAMMA", focal_loss_gamma),
            ("MODEL.FCOS.SCORE_THRESH_TEST", test_score_thresh),
            ("MODEL.FCOS.TOPK_CANDIDATES_TEST", test_topk_candidates),
            ("MODEL.FCOS.NMS_THRESH_TEST", test_nms_thresh),
            ("TEST.DETECTIONS_PER_IMAGE", max_detections_per_image),
        ):
            check_value(key, value)
        if getattr(head, "num_classes", num_classes) != num_classes:
            raise InputError(f"num_classes is {num_classes}, but the head has {head.num_classes}.")
        self.num_classes = num_classes
        self.target_assigner = target_assigner
        self.location_offset = location_offset
        self.box_activation = box_activation
        self.box_loss_type = box_loss_type
        if loss_normalizer == "moving_fg":
            # 0: no batch seen yet.
            self.register_buffer("moving_num_positives", torch.zeros(()))
        self.loss_normalizer = loss_normalizer
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        check_config(cfg)
        fcos = cfg.MODEL.FCOS
        num_classes, location_offset = resolve_num_classes(cfg), fcos.LOCATION_OFFSET
        backbone = build_backbone(cfg)
        strides = _strides_of(backbone, fcos.IN_FEATURES)
        shapes = backbone.output_shape()
        unused = [name for name, shape in shapes.items() if shape.stride > strides[-1]]
        if unused:
            raise InputError(
                f"The backbone makes {unused}, but MODEL.FCOS.IN_FEATURES = "
                f"{list(fcos.IN_FEATURES)} ends before them: lower MODEL.FCOS.TOP_LEVELS, or their "
                "weights would never get a gradient, which several processes cannot train with."
            )
        return {
            "backbone": backbone,
            "head": FCOSHead(cfg, [shapes[name] for name in fcos.IN_FEATURES], num_classes),
            "head_in_features": fcos.IN_FEATURES,
            "num_classes": num_classes,
            "target_assigner": build_target_assigner(cfg, strides, location_offset),
            "location_offset": location_offset,
            "box_activation": fcos.BOX_ACTIVATION,
            "box_loss_type": fcos.LOC_LOSS_TYPE,
            "loss_normalizer": fcos.LOSS_NORMALIZER,
            "focal_loss_alpha": fcos.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": fcos.FOCAL_LOSS_GAMMA,
            "test_score_thresh": fcos.SCORE_THRESH_TEST,
            "test_topk_candidates": fcos.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": fcos.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: Predictions,
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Called by DenseDetector.forward in training; returns the losses by name."""
        feature_sizes = [(x.shape[2], x.shape[3]) for x in features]
        targets = self.target_assigner(gt_instances, feature_sizes)
        return self.losses(predictions, targets)

    def losses(self, predictions: Predictions, targets: LocationTargets) -> dict[str, Tensor]:
        """
        Class, box and centre-ness loss (arXiv:1904.01355, eq. 2 and Sec. 3.3), each a float32
        scalar. Without any positive the last two are zeros that can be differentiated.
        """
        cls_logits, raw_ltrb, centerness_logits = predictions
        is_positive = targets.is_positive
        where = (targets.image_idxs, targets.location_idxs)
        # What is no positive must stay finite on the way to being masked out: 0 * inf is NaN.
        raw = flatten_levels(raw_ltrb)[where].where(is_positive[:, None], 0)
        target_ltrb = targets.ltrb.where(is_positive[:, None], 1)
        pred_ltrb = activate_ltrb(raw, self._stride_of_pairs(targets)[:, None], self.box_activation)
        centerness = centerness_targets(target_ltrb) * is_positive

        num_positives, sum_centerness = _mean_over_processes(
            torch.stack([is_positive.sum(), centerness.sum()]),
            floors=torch.tensor([1.0, 1e-6]),
        )
        normalizer = self._loss_normalizer(num_positives)
        loss_cls = focal_loss_sum(cls_logits, targets, self.focal_loss_alpha, self.focal_loss_gamma)
        loss_loc = box_loss(pred_ltrb, target_ltrb, self.box_loss_type) * centerness
        loss_ctr = F.binary_cross_entropy_with_logits(
            flatten_levels(centerness_logits)[where].squeeze(1).float(),
            centerness,
            weight=is_positive.float(),
            reduction="sum",
        )
        return {
            "loss_fcos_cls": loss_cls / normalizer,
            "loss_fcos_loc": loss_loc.sum() / sum_centerness * (num_positives / normalizer),
            "loss_fcos_ctr": loss_ctr / normalizer,
        }

    def _loss_normalizer(self, num_positives: Tensor) -> Tensor:
        """Positives to divide by, from those of this batch (either is a mean over processes)."""
        if self.loss_normalizer == "fg":
            return num_positives
        old = self.moving_num_positives
        moved = _MOVING_MOMENTUM * old + (1 - _MOVING_MOMENTUM) * num_positives
        self.moving_num_positives.copy_(torch.where(old > 0, moved, num_positives))
        return self.moving_num_positives.clone()

    def _stride_of_pairs(self, targets: LocationTargets) -> Tensor:
        return torch.cat(
            [
                targets.ltrb.new_full((num_pairs,), stride)
                for num_pairs, stride in zip(targets.num_per_level, self.strides, strict=True)
            ]
        )

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: Predictions
    ) -> list[Instances]:
        """Called by DenseDetector.forward in inference; boxes are in pixels of its inputs."""
        cls_logits, raw_ltrb, centerness_logits = predictions
        candidates = select_candidates(
            cls_logits, centerness_logits, self.test_score_thresh, self.test_topk_candidates
        )
        boxes = decode_candidates(
            candidates, raw_ltrb, self.strides, self.location_offset, self.box_activation
        )
        results = []
        for image_idx, image_size in enumerate(images.image_sizes):
            is_here = candidates.image_idxs == image_idx
            results.append(
                suppress(
                    boxes[is_here],
                    candidates.scores[is_here],
                    candidates.classes[is_here],
                    image_size,
                    self.test_nms_thresh,
                    self.max_detections_per_image,
                )
            )
        return results


def _strides_of(backbone: Backbone, feature_names: Sequence[str]) -> list[int]:
    shapes = backbone.output_shape()
    unknown = [name for name in feature_names if name not in shapes]
    if unknown:
        raise InputError(
            f"MODEL.FCOS.IN_FEATURES = {list(feature_names)}: the backbone has no {unknown}; it "
            f"has {list(shapes)}."
        )
    strides = [shapes[name].stride for name in feature_names]
    if strides != sorted(set(strides)) or not strides:
        raise InputError(
            f"MODEL.FCOS.IN_FEATURES = {list(feature_names)} must go from fine to coarse; the "
            f"strides are {strides}."
        )
    return strides


def _mean_over_processes(totals: Tensor, floors: Tensor) -> Tensor:
    """
    Normalisers that make W processes compute the gradients of one: max(total, floor) / W.

    One all-reduce, by every process and whatever its positives, or the others would wait for ever.
    The floor applies to the total: applied to each process's share it would shrink the losses of
    batches with fewer positives than processes.
    """
    world_size = comm.get_world_size()
    if world_size > 1:
        torch.distributed.all_reduce(totals)
    return torch.maximum(totals, floors.to(totals.device)) / world_size
