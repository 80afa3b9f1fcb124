"""
The common configs of detectron2.

They are read from detectron2's folder, because detectron2.model_zoo cannot be imported with
setuptools 81 or newer.
"""

from pathlib import Path

import detectron2
from detectron2.config import LazyConfig

_COMMON = Path(detectron2.__file__).parent / "model_zoo" / "configs" / "common"


def _load(file, key):
    """Load one variable of a config file."""
    return LazyConfig.load(str(_COMMON / file), key)


train = _load("train.py", "train")
# The keys that fcos_d2 adds; see FCOS_TRAIN in docs/config.md.
train.ema_decay = 0.0
train.validation_loss = False
train.best_metric = "bbox/AP"
train.early_stopping_patience = 0
train.checkpoint_at_signal = True
train.resume_lr = False
train.drop_classes = []
train.class_names = []  # training writes those of the training set into config.yaml
SGD = _load("optim.py", "SGD")
AdamW = _load("optim.py", "AdamW")
lr_multiplier_1x = _load("coco_schedule.py", "lr_multiplier_1x")
dataloader = _load("data/coco.py", "dataloader")
constants = _load("data/constants.py", "constants")
# ResNet-50 with an FPN, which computes P6 and P7 from P5.
backbone = _load("models/fcos.py", "model").backbone
