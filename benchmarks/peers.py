"""
The detectors of other packages that ours is compared with, each as a detectron2 DenseDetector.

N = images, K = classes, L = levels, R = locations of an image, Hi x Wi = cells of level i.
"""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone, build_resnet_backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.meta_arch.fcos import FCOS as Detectron2FCOS
from detectron2.modeling.meta_arch.fcos import FCOSHead as Detectron2FCOSHead
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.models.detection import _utils as torchvision_utils
from torchvision.models.detection import fcos as torchvision_fcos
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList as TorchvisionImageList

from fcos_d2.modeling.levels import flatten_levels

__all__ = [
    "DETECTRON2_NAMES",
    "TORCHVISION_NAMES",
    "TorchvisionFCOS",
    "build_detectron2_fcos",
    "build_plain_backbone",
    "build_retinanet",
    "build_torchvision_fcos",
    "renamed",
]

# Prefixes of our head's state dict -> theirs.
DETECTRON2_NAMES = {
    "cls_tower": "cls_subnet",
    "bbox_tower": "bbox_subnet",
    "cls_logits": "cls_score",
    "bbox_pred": "bbox_pred",
    "centerness": "ctrness",
}
TORCHVISION_NAMES = {
    "cls_tower": "classification_head.conv",
    "bbox_tower": "regression_head.conv",
    "cls_logits": "classification_head.cls_logits",
    "bbox_pred": "regression_head.bbox_reg",
    "centerness": "regression_head.bbox_ctrness",
}


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """The entries of our head's state dict under another's names; the scales, all 1, drop out."""
    parts = [(*key.partition("."), value) for key, value in state.items()]
    return {f"{names[prefix]}.{rest}": x for prefix, _, rest, x in parts if prefix in names}


class TorchvisionFCOS(DenseDetector):
    """
    torchvision's FCOS: its head, anchors, matching, losses and selection, called as its own forward
    does. What resizes and pads the images is detectron2's, here as for all others.
    """

    compute_loss = torchvision_fcos.FCOS.compute_loss
    postprocess_detections = torchvision_fcos.FCOS.postprocess_detections

    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: list[str],
        center_sampling_radius: float = 1.5,
        test_score_thresh: float = 0.2,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.6,
        max_detections_per_image: int = 100,
        pixel_mean: list[float],
        pixel_std: list[float],
    ) -> None:
        super().__init__(
            backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        shapes = backbone.output_shape()
        strides = [shapes[name].stride for name in head_in_features]
        self.anchor_generator = AnchorGenerator(
            tuple((x,) for x in strides), ((1.0,),) * len(strides)
        )
        # What the two methods of theirs read.
        self.box_coder = torchvision_utils.BoxLinearCoder(normalize_by_size=True)
        self.center_sampling_radius = center_sampling_radius
        self.score_thresh = test_score_thresh
        self.topk_candidates = test_topk_candidates
        self.nms_thresh = test_nms_thresh
        self.detections_per_img = max_detections_per_image

    @staticmethod
    def join_maps(maps: list[list[Tensor]]) -> dict[str, Tensor]:
        """What its head makes of the raw maps of the levels before it returns them."""
        cls_logits, raw_ltrb, centerness = maps
        return {
            "cls_logits": flatten_levels(cls_logits).contiguous(),
            "bbox_regression": flatten_levels([x.relu() for x in raw_ltrb]).contiguous(),
            "bbox_ctrness": flatten_levels(centerness).contiguous(),
        }

    def anchors_of(self, images: ImageList, features: list[Tensor]) -> list[Tensor]:
        """For each image its (R, 4) anchors."""
        return self.anchor_generator(
            TorchvisionImageList(images.tensor, images.image_sizes), features
        )

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: dict[str, Tensor],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        targets = [{"boxes": x.gt_boxes.tensor, "labels": x.gt_classes} for x in gt_instances]
        anchors = self.anchors_of(images, features)
        num_per_level = [x.shape[2] * x.shape[3] for x in features]
        return self.compute_loss(targets, predictions, anchors, num_per_level)

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: dict[str, Tensor]
    ) -> list[Instances]:
        num_per_level = [x.shape[2] * x.shape[3] for x in features]
        outputs = {k: list(x.split(num_per_level, dim=1)) for k, x in predictions.items()}
        anchors = [list(x.split(num_per_level)) for x in self.anchors_of(images, features)]
        detections = self.postprocess_detections(outputs, anchors, images.image_sizes)
        return [
            Instances(
                size,
                pred_boxes=Boxes(found["boxes"]),
                scores=found["scores"],
                pred_classes=found["labels"],
            )
            for found, size in zip(detections, images.image_sizes, strict=True)
        ]


def build_plain_backbone(cfg: CfgNode) -> Backbone:
    """detectron2's ResNet and FPN with P6 and P7 from P5, all of it detectron2's own."""
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return FPN(
        bottom_up=build_resnet_backbone(cfg, ShapeSpec(channels=3)),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7(channels, channels, "p5"),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def build_detectron2_fcos(cfg: CfgNode, backbone: Backbone, score_thresh: float = 0.2) -> nn.Module:
    """Its class, which no config can name, on the maps and with the head that ``cfg`` asks for."""
    head = Detectron2FCOSHead(
        input_shape=_shapes(cfg, backbone),
        conv_dims=[cfg.MODEL.FPN.OUT_CHANNELS] * _num_convs(cfg),
        num_classes=cfg.MODEL.FCOS.NUM_CLASSES,
        norm=cfg.MODEL.FCOS.NORM,
    )
    return Detectron2FCOS(
        num_classes=cfg.MODEL.FCOS.NUM_CLASSES, **_common(cfg, backbone, head, score_thresh)
    )


def build_torchvision_fcos(
    cfg: CfgNode, backbone: Backbone, score_thresh: float = 0.2
) -> TorchvisionFCOS:
    assert cfg.MODEL.FCOS.NORM == "GN"  # it has no other
    head = torchvision_fcos.FCOSHead(
        cfg.MODEL.FPN.OUT_CHANNELS, 1, cfg.MODEL.FCOS.NUM_CLASSES, num_convs=_num_convs(cfg)
    )
    return TorchvisionFCOS(**_common(cfg, backbone, head, score_thresh))


def build_retinanet(cfg: CfgNode, backbone: Backbone, score_thresh: float = 0.05) -> nn.Module:
    """detectron2's, with anchors of 4 to 8 strides as in its configs, and the norm of ``cfg``."""
    strides = [shape.stride for shape in _shapes(cfg, backbone)]
    anchor_generator = DefaultAnchorGenerator(
        sizes=[[4 * stride * 2 ** (i / 3) for i in range(3)] for stride in strides],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=strides,
    )
    head = RetinaNetHead(
        input_shape=_shapes(cfg, backbone),
        num_classes=cfg.MODEL.FCOS.NUM_CLASSES,
        num_anchors=9,
        conv_dims=[cfg.MODEL.FPN.OUT_CHANNELS] * _num_convs(cfg),
        norm=cfg.MODEL.FCOS.NORM,
    )
    return RetinaNet(
        num_classes=cfg.MODEL.FCOS.NUM_CLASSES,
        anchor_generator=anchor_generator,
        box2box_transform=Box2BoxTransform(weights=cfg.MODEL.RETINANET.BBOX_REG_WEIGHTS),
        anchor_matcher=Matcher(
            cfg.MODEL.RETINANET.IOU_THRESHOLDS,
            cfg.MODEL.RETINANET.IOU_LABELS,
            allow_low_quality_matches=True,
        ),
        # Its own defaults are those of its configs, but for the threshold of NMS.
        **{**_common(cfg, backbone, head, score_thresh), "test_nms_thresh": 0.5},
    )


def _shapes(cfg: CfgNode, backbone: Backbone) -> list[ShapeSpec]:
    shapes = backbone.output_shape()
    return [shapes[name] for name in cfg.MODEL.FCOS.IN_FEATURES]


def _num_convs(cfg: CfgNode) -> int:
    """Of each tower: the others have one number for both."""
    assert cfg.MODEL.FCOS.NUM_CLS_CONVS == cfg.MODEL.FCOS.NUM_BOX_CONVS
    return cfg.MODEL.FCOS.NUM_CLS_CONVS


def _common(
    cfg: CfgNode, backbone: Backbone, head: nn.Module, score_thresh: float
) -> dict[str, Any]:
    """What all take, with the values that ours has."""
    return {
        "backbone": backbone,
        "head": head,
        "head_in_features": list(cfg.MODEL.FCOS.IN_FEATURES),
        "test_score_thresh": score_thresh,
        "test_topk_candidates": cfg.MODEL.FCOS.TOPK_CANDIDATES_TEST,
        "test_nms_thresh": cfg.MODEL.FCOS.NMS_THRESH_TEST,
        "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }
