"""torchvision's FCOS as a detector of detectron2."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor
from torchvision.models.detection import fcos as torchvision_fcos
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList as TorchvisionImageList


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
        original = torchvision_fcos.FCOS(
            backbone,
            fcos.NUM_CLASSES,
            head=torchvision_fcos.FCOSHead(
                channels, 1, fcos.NUM_CLASSES, num_convs=fcos.NUM_CLS_CONVS
            ),
            anchor_generator=AnchorGenerator(
                tuple((x,) for x in strides), ((1.0,),) * len(strides)
            ),
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
                size,
                pred_boxes=Boxes(result["boxes"]),
                scores=result["scores"],
                pred_classes=result["labels"],
            )
            for result, size in zip(results, images.image_sizes, strict=True)
        ]


def to_torchvision_targets(instances: Sequence[Instances]) -> list[dict[str, Tensor]]:
    """Convert annotations to torchvision's format."""
    return [{"boxes": x.gt_boxes.tensor, "labels": x.gt_classes} for x in instances]
