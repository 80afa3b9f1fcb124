"""
ViT-B, pretrained as MAE, with a SimpleFeaturePyramid that has the strides of FCOS.

The maps of stride 8, 16 and 32 are computed from ViT's map of stride 16, and P6 and P7 from P5.
"""

from functools import partial

from detectron2.config import LazyCall as L
from detectron2.modeling import SimpleFeaturePyramid, ViT
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from torch import nn

from .common.vitdet import dataloader, lr_multiplier, model, optimizer, train

model.backbone = L(SimpleFeaturePyramid)(
    net=L(ViT)(
        img_size=1024,
        patch_size=16,
        embed_dim=768,
        depth=12,
        num_heads=12,
        drop_path_rate=0.1,
        window_size=14,
        mlp_ratio=4,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        # The other blocks (2, 5, 8 and 11) attend to the whole image.
        window_block_indexes=[0, 1, 3, 4, 6, 7, 9, 10],
        residual_block_indexes=[],
        use_rel_pos=True,
        out_feature="last_feat",
    ),
    in_feature="${.net.out_feature}",
    out_channels=256,
    scale_factors=[2.0, 1.0, 0.5],
    top_block=L(LastLevelP6P7)(in_channels=256, out_channels=256, in_feature="p5"),
    norm="LN",
    # Images are padded to this square. Otherwise they would not be padded to multiples of the
    # stride.
    square_pad=1024,
)

train.init_checkpoint = (
    "detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_base.pth?matching_heuristics=True"
)
optimizer.params.lr_factor_func = partial(get_vit_lr_decay_rate, num_layers=12, lr_decay_rate=0.7)
optimizer.params.overrides = {"pos_embed": {"weight_decay": 0.0}}
