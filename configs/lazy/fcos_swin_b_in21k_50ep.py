"""Swin-B, pretrained on ImageNet-21k, with detectron2's FPN, trained like ViTDet's baseline."""

from detectron2.config import LazyCall as L
from detectron2.modeling import SwinTransformer

from .common.vitdet import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = L(SwinTransformer)(
    embed_dim=128,
    depths=[2, 2, 18, 2],
    num_heads=[4, 8, 16, 32],
    drop_path_rate=0.4,
    out_indices=[1, 2, 3],
)
model.backbone.in_features = ["p1", "p2", "p3"]  # strides 8, 16 and 32
model.backbone.square_pad = 1024

train.init_checkpoint = "detectron2://ImageNetPretrained/swin/swin_base_patch4_window7_224_22k.pth"
train.max_iter = train.max_iter // 2
lr_multiplier.warmup_length = 250 / train.max_iter
optimizer.lr = 4e-5
optimizer.weight_decay = 0.05
optimizer.params.overrides = {"relative_position_bias_table": {"weight_decay": 0.0}}
