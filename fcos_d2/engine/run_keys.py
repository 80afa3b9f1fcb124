"""The names of the values that a run checks, in YAML configs and in LazyConfigs, for messages."""

from collections.abc import Mapping
from typing import NamedTuple

from ..data.coco import DatasetKeys

__all__ = ["LAZY_KEYS", "YAML_KEYS", "RunKeys"]


class RunKeys(NamedTuple):
    """
    The keys of the checked values in one kind of config.

    Attributes:
        device (str): Key of the device.
        weights (str): Key of the weights to start from or to evaluate.
        output_dir (str): Key of the output folder.
        batch_size (str): Key of the number of images in a batch.
        datasets (DatasetKeys): Keys about the datasets and the classes.
        equals (str): Separator between a key and its value on the command line.
        resume_lr (str): Key of the flag that a resumed run takes the config's optimizer settings.
        optimizer (Mapping[str, str]): Keys of the settings of the optimizer, by their names in
            PyTorch.
        image_size (str): Keys of the size of training images.
        center_sampling_radius (str): Key of the radius of center sampling.
    """

    device: str
    weights: str
    output_dir: str
    batch_size: str
    datasets: DatasetKeys
    equals: str
    resume_lr: str
    optimizer: Mapping[str, str]
    image_size: str
    center_sampling_radius: str


YAML_KEYS = RunKeys(
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "OUTPUT_DIR",
    "SOLVER.IMS_PER_BATCH",
    DatasetKeys(),
    " ",
    "FCOS_TRAIN.RESUME_LR",
    {
        "lr": "SOLVER.BASE_LR",
        "weight_decay": "SOLVER.WEIGHT_DECAY",
        "momentum": "SOLVER.MOMENTUM",
        "nesterov": "SOLVER.NESTEROV",
    },
    "INPUT.MIN_SIZE_TRAIN and INPUT.MAX_SIZE_TRAIN",
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS",
)
LAZY_KEYS = RunKeys(
    "train.device",
    "train.init_checkpoint",
    "train.output_dir",
    "dataloader.train.total_batch_size",
    DatasetKeys(
        "model.num_classes",
        "dataloader.train.dataset.names",
        "dataloader.test.dataset.names",
        "train.drop_classes",
        "train.class_names",
        "model.dense_head.postprocessor.detections_per_image",
        "dataloader.train.mapper.use_instance_mask",
    ),
    "=",
    "train.resume_lr",
    {
        name: f"optimizer.{name}"
        for name in ("lr", "weight_decay", "momentum", "nesterov", "betas", "eps")
    },
    "dataloader.train.mapper.augmentations",
    "model.dense_head.assigner.center_sampling_radius",
)
