"""
The meta-architecture ``FCOS``, which joins a backbone and the dense head.

N = images, C = channels, L = levels, Hi x Wi = cells of level i.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
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
from .backbone.timm_network import warn_of_timm_pixel_statistics
from .backbone.unused_maps import find_untrained_maps
from .candidates import Candidates
from .config_checks import FCOS_ARGUMENTS, find_config_faults
from .copy_to_device import copy_to_device
from .cuda_graphs import FCOSGraphs
from .dense_head import FCOSDenseHead
from .layers.norms import sync_norms_for_device
from .levels import select_maps
from .losses import LossTerms
from .num_classes import check_num_classes, resolve_num_classes
from .pixel_statistics import check_pixel_statistics
from .predictions import DensePredictions

__all__ = ["FCOS"]


@register_in(META_ARCH_REGISTRY)
class FCOS(DenseDetector):
    """
    FCOS: fully convolutional one-stage object detection (arXiv:1904.01355, arXiv:2006.09214).

    1. The backbone computes feature maps, and a head that is shared by all levels makes predictions
       at each location.
    2. Training: the target assigner assigns ground-truth boxes to locations. Each location learns
       the class of its box, the distances to the sides of the box, and a quality (center-ness or
       IoU).
    3. Inference: select (location, class) pairs with high scores, decode their boxes, apply NMS.
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
        Join the parts, and check that they fit together.

        Args:
            backbone (Backbone): Computes the feature maps.
            dense_head (FCOSDenseHead): The parts after the backbone.
            head_in_features (list[str] | None): Names of the L maps to use, from fine to coarse;
                None uses all maps of the backbone.
            num_classes (int): K, foreground classes only.
            pixel_mean (list[float]): Mean of the pixels, one value for each image channel.
            pixel_std (list[float]): Standard deviation of the pixels, one value for each channel.
            inference_dtype (str): Precision of inference: "float32", or "bfloat16" or "float16"
                with autocast.
            acceleration (Acceleration | None): Speed options; None uses the defaults.

        Raises:
            InputError: If a value is out of its range, or parts do not fit together.
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
        acceleration = acceleration or Acceleration()
        prepare_for_speed(self, acceleration)
        self.graphs: FCOSGraphs | None = None
        if acceleration.cuda_graphs != "none":
            self.graphs = FCOSGraphs(trains=acceleration.cuda_graphs == "all")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Check a config, and build the arguments of the constructor from it."""
        raise_faults([find_config_faults(cfg)])
        num_classes = resolve_num_classes(cfg)
        backbone = build_backbone(cfg)
        sync_norms_for_device(backbone, cfg.MODEL.DEVICE)
        warn_of_timm_pixel_statistics(backbone, cfg)
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
        """The current parts after the backbone; any of these attributes may be replaced."""
        return FCOSDenseHead.of(self)

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """
        Compute losses in training, or detections in inference.

        Args:
            batched_inputs (list[dict]): Outputs of a dataset mapper. In training each has "image",
                "instances" and optionally "gt_ignore_boxes" (Boxes in pixels of the image):
                locations strictly inside these boxes are not trained as background.

        Returns:
            dict[str, Tensor] | list[dict[str, Instances]]: In training, the losses by name. In
            inference, {"instances": Instances} for each image, as for other models of detectron2.

        Raises:
            InputError: If a class index is not one of the K classes.
        """
        if self.training:
            return self._train(batched_inputs)
        with self._inference_autocast():
            return self._detect(batched_inputs)

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: DensePredictions,
        gt_instances: list[Instances],
        ignore_boxes: list[Boxes] | None = None,
    ) -> dict[str, Tensor]:
        """
        Compute the losses from predictions; ``forward`` calls it in training.

        Args:
            images (ImageList): The padded batch, with the sizes of the images.
            features (list[Tensor]): L maps (N, C, Hi, Wi).
            predictions (DensePredictions): Outputs of the head.
            gt_instances (list[Instances]): Annotations of each image.
            ignore_boxes (list[Boxes] | None): Ignore boxes of each image, if there are any.

        Returns:
            dict[str, Tensor]: The losses by name.
        """
        return self.dense_head.compute_losses(
            predictions, gt_instances, images.image_sizes, ignore_boxes
        )

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: DensePredictions
    ) -> list[Instances]:
        """
        Compute detections from predictions; ``forward`` calls it in inference.

        Args:
            images (ImageList): The padded batch, with the sizes of the images.
            features (list[Tensor]): L maps (N, C, Hi, Wi).
            predictions (DensePredictions): Outputs of the head.

        Returns:
            list[Instances]: Detections of each image, in pixels of the batch.
        """
        return self.dense_head.detect(predictions, images.image_sizes)

    def find_candidates(
        self, batched_inputs: list[dict[str, Any]]
    ) -> tuple[Candidates, list[tuple[int, int]]]:
        """
        Find what ``forward`` in inference applies NMS to.

        Test-time augmentation joins the candidates of several views of an image.

        Args:
            batched_inputs (list[dict]): As for ``forward`` in inference.

        Returns:
            tuple[Candidates, list[tuple[int, int]]]: The candidates of the batch, sorted by image,
            and height and width of each image without padding.
        """
        with self._inference_autocast():
            images = self.preprocess_image(batched_inputs)
            _, predictions = self._predict(images)
            return self.postprocessor.candidates(predictions), images.image_sizes

    def keeps(self, method: str) -> bool:
        """Return whether a method is that of this class, not of a subclass or an instance."""
        return getattr(getattr(self, method), "__func__", None) is getattr(FCOS, method)

    def compute_loss_terms(self, batched_inputs: list[dict[str, Any]]) -> LossTerms:
        """
        Compute the losses of annotated images as sums, before they are normalized.

        The model stays in its mode (training or eval). In eval mode, no buffer and no statistic of
        the model changes.

        Args:
            batched_inputs (list[dict]): As for ``forward`` in training.
        """
        images, gt_instances, ignore_boxes = self._copy_batch(batched_inputs)
        _, predictions = self._predict(images)
        return self.dense_head.compute_loss_terms(
            predictions, gt_instances, images.image_sizes, ignore_boxes
        )

    def _train(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute the losses by name, see ``forward``."""
        images, gt_instances, ignore_boxes = self._copy_batch(batched_inputs)
        if (
            self.graphs is not None
            and ignore_boxes is None
            and self.graphs.can_train(self, self.device)
            and self.keeps("forward_training")
        ):
            terms = self.graphs.compute_loss_terms(self, images, gt_instances)
            return self.losses.normalize_over_processes(terms)
        features, predictions = self._predict(images)
        # The forward_training of a subclass may have only the arguments that detectron2 has.
        optional = {} if ignore_boxes is None else {"ignore_boxes": ignore_boxes}
        return self.forward_training(images, features, predictions, gt_instances, **optional)

    def _detect(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Compute the detections, see ``forward``."""
        if (
            self.graphs is None
            or not self.graphs.can_detect(self, self.device)
            or not self.keeps("forward_inference")
        ):
            return super().forward(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        output_sizes = [
            (x.get("height", height), x.get("width", width))
            for x, (height, width) in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        ranked = self.graphs.rank_candidates(self, images, output_sizes)
        results = self.postprocessor.suppress_ranked(ranked, output_sizes)
        return [{"instances": x} for x in results]

    def _inference_autocast(self) -> AbstractContextManager[Any]:
        """Return the context of inference, which sets the precision ``inference_dtype``."""
        if self.inference_dtype == torch.float32:  # an autocast of the caller stays in effect
            return nullcontext()
        return torch.autocast(self.device.type, self.inference_dtype)

    def _copy_batch(
        self, batched_inputs: list[dict[str, Any]]
    ) -> tuple[ImageList, list[Instances], list[Boxes] | None]:
        """Copy annotated images to the device; return images, annotations and ignore boxes."""
        assert "instances" in batched_inputs[0], "Instance annotations are missing in training!"
        check_classes([x["instances"] for x in batched_inputs], self.num_classes)
        # Annotations go first: the host waits for copies of masks, and with them for all work that
        # is already queued on the GPU.
        gt_instances, ignore_boxes = copy_annotations(batched_inputs, self.device)
        return self.preprocess_image(batched_inputs), gt_instances, ignore_boxes

    def _predict(self, images: ImageList) -> tuple[list[Tensor], DensePredictions]:
        """Run backbone and head; return the L maps (N, C, Hi, Wi) and the predictions."""
        maps = self.backbone(images.tensor)
        features = [maps[name] for name in self.head_in_features]
        return features, self.dense_head.predict(features)

    def _move_to_current_device(self, x: Tensor) -> Tensor:
        """
        Copy an image to the device of the model, without waiting for the copy.

        A floating point image also gets the type of the weights, which ``half()`` may have changed.
        """
        if torch.jit.is_tracing():  # the method of DenseDetector is traced for any device
            return super()._move_to_current_device(x)
        x = copy_to_device(x, self.device)
        return x.to(self.pixel_mean.dtype) if x.is_floating_point() else x
