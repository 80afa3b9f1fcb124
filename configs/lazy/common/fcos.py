"""The default FCOS with detectron2's ResNet-50 and FPN, and the COCO dataset."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from fcos_d2 import (
    FCOS,
    FCOSAssigner,
    FCOSDenseHead,
    FCOSHead,
    FCOSLosses,
    FCOSPostProcessor,
    Levels,
)
from fcos_d2.data import FCOSDatasetMapper
from fcos_d2.engine import build_evaluator

from .from_detectron2 import backbone, constants, dataloader

model = L(FCOS)(
    backbone=backbone,
    dense_head=L(FCOSDenseHead)(
        levels=L(Levels)(strides=[8, 16, 32, 64, 128]),
        head=L(FCOSHead)(
            input_shape=[ShapeSpec(channels=256)] * 5,
            num_classes="${...num_classes}",
            num_cls_convs=4,
            num_box_convs=4,
            norm="GN",
            prior_ltrb=0.0,  # as in the published models
        ),
        assigner=L(FCOSAssigner)(levels="${..levels}"),
        losses=L(FCOSLosses)(levels="${..levels}", loc_loss_type="giou"),
        postprocessor=L(FCOSPostProcessor)(
            levels="${..levels}",
            score_thresh_test=0.05,
            nms_thresh_test=0.6,
            detections_per_image=100,
        ),
    ),
    num_classes=80,
    pixel_mean=constants.imagenet_bgr256_mean,
    pixel_std=constants.imagenet_bgr256_std,
)

dataloader.train.mapper._target_ = FCOSDatasetMapper
dataloader.train.mapper.use_instance_mask = False
dataloader.test.mapper._target_ = FCOSDatasetMapper
# The dataset's metadata selects the evaluator (COCO, LVIS or Pascal VOC).
dataloader.evaluator = L(build_evaluator)(
    dataset_name="${..test.dataset.names}",
    output_dir="${train.output_dir}/inference",
    detections_per_image="${model.dense_head.postprocessor.detections_per_image}",
)
