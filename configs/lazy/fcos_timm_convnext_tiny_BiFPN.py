"""ConvNeXt-T of timm, with timm's weights and a BiFPN, trained for 12 epochs with AdamW."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from fcos_d2 import BiFPN, TimmBackbone

from .common.fcos import dataloader, model
from .common.from_detectron2 import AdamW as optimizer
from .common.from_detectron2 import constants, train
from .common.from_detectron2 import lr_multiplier_1x as lr_multiplier

model.backbone = L(BiFPN)(
    bottom_up=L(TimmBackbone)(
        name="convnext_tiny",
        out_features=["res3", "res4", "res5"],
        pretrained=True,
    ),
    in_features="${.bottom_up.out_features}",
    top_levels=2,
    num_repeats=6,
    out_channels=160,
    norm="SyncBN",
)
model.dense_head.head.input_shape = [ShapeSpec(channels=160)] * 5
model.pixel_mean = constants.imagenet_rgb256_mean
model.pixel_std = constants.imagenet_rgb256_std

dataloader.train.mapper.image_format = "RGB"  # the test mapper refers to this value
train.amp.enabled = True
optimizer.weight_decay = 0.05
