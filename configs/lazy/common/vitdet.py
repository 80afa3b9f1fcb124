"""The recipe of ViTDet (arXiv:2203.16527), with large-scale jitter, 64 images and 100 epochs."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from .fcos import dataloader, model
from .from_detectron2 import AdamW as optimizer
from .from_detectron2 import constants, train

_SIZE = 1024  # pixels; images are padded to a square of this size

model.pixel_mean = constants.imagenet_rgb256_mean
model.pixel_std = constants.imagenet_rgb256_std

dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),  # before the crop
    L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=_SIZE, target_width=_SIZE),
    L(T.FixedSizeCrop)(crop_size=(_SIZE, _SIZE), pad=False),
]
dataloader.train.mapper.image_format = "RGB"  # the test mapper refers to this value
dataloader.train.total_batch_size = 64
dataloader.test.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=_SIZE, max_size=_SIZE),
]

train.amp.enabled = True
train.max_iter = 184375  # 100 epochs of COCO's 118,000 images
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01],
        milestones=[163889, 177546, 184375],  # only their ratios to the last one matter
    ),
    warmup_length=250 / train.max_iter,
    warmup_factor=0.001,
)
