"""MViTv2-T with detectron2's FPN, trained like detectron2's Mask R-CNN with it for 36 epochs."""

from functools import partial

from detectron2.config import LazyCall as L
from detectron2.modeling import MViT
from torch import nn

from .common.fcos import dataloader, model
from .common.from_detectron2 import AdamW as optimizer
from .common.from_detectron2 import constants, train
from .common.vitdet import lr_multiplier

model.pixel_mean = constants.imagenet_rgb256_mean
model.pixel_std = constants.imagenet_rgb256_std
model.backbone.bottom_up = L(MViT)(
    embed_dim=96,
    depth=10,
    num_heads=1,
    last_block_indexes=[0, 2, 7, 9],
    residual_pooling=True,
    drop_path_rate=0.2,
    norm_layer=partial(nn.LayerNorm, eps=1e-6),
    out_features=["scale3", "scale4", "scale5"],
)
model.backbone.in_features = "${.bottom_up.out_features}"

dataloader.train.mapper.image_format = "RGB"  # the test mapper refers to this value
dataloader.train.total_batch_size = 64

train.amp.enabled = True
train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_T_in1k.pyth"
train.max_iter = 67500
lr_multiplier.scheduler.milestones = [52500, 62500, 67500]
lr_multiplier.warmup_length = 250 / train.max_iter
optimizer.lr = 1.6e-4
optimizer.params.overrides = {
    "pos_embed": {"weight_decay": 0.0},
    "rel_pos_h": {"weight_decay": 0.0},
    "rel_pos_w": {"weight_decay": 0.0},
}
