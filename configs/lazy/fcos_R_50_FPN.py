"""The improved FCOS with ResNet-50, the same as configs/fcos_R_50_FPN_1x.yaml."""

from .common.fcos import dataloader, model
from .common.from_detectron2 import SGD as optimizer
from .common.from_detectron2 import lr_multiplier_1x as lr_multiplier
from .common.from_detectron2 import train

# Freezes the stem and res2, as MODEL.BACKBONE.FREEZE_AT does in YAML configs.
model.backbone.bottom_up.freeze_at = 2
dataloader.train.mapper.augmentations[0].short_edge_length = [800]
optimizer.lr = 0.01
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
