"""RegNetX-4GF with detectron2's FPN, trained like fcos_R_50_FPN.py from weights of pycls."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import RegNet
from detectron2.modeling.backbone.regnet import ResBottleneckBlock, SimpleStem

from .fcos_R_50_FPN import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = L(RegNet)(
    stem_class=SimpleStem,
    stem_width=32,
    block_class=ResBottleneckBlock,
    depth=23,
    w_a=38.65,
    w_0=96,
    w_m=2.43,
    group_width=40,
    norm="FrozenBN",
    freeze_at=2,
    out_features=["s2", "s3", "s4"],
)
model.backbone.in_features = ["s2", "s3", "s4"]  # strides 8, 16 and 32
model.pixel_std = [57.375, 57.120, 58.395]

train.init_checkpoint = (
    "https://dl.fbaipublicfiles.com/pycls/dds_baselines/160906383/RegNetX-4.0GF_dds_8gpu.pyth"
)
optimizer.weight_decay = 5e-5
train.cudnn_benchmark = True
