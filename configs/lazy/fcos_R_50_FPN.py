"""The same as configs/fcos_R_50_FPN_1x.yaml."""

from .common.fcos import dataloader, model
from .common.from_detectron2 import SGD as optimizer
from .common.from_detectron2 import lr_multiplier_1x as lr_multiplier
from .common.from_detectron2 import train

# MODEL.BACKBONE.FREEZE_AT of YAML configs: stem and res2.
model.backbone.bottom_up.freeze_at = 2
dataloader.train.mapper.augmentations[0].short_edge_length = [800]
optimizer.lr = 0.01
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
