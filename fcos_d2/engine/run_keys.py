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
        validation_loss (str): Key of the flag that the losses on the test data are computed.
        skip_unreadable_images (str): Key of the flag that training leaves out unreadable images.
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
    validation_loss: str
    skip_unreadable_images: str


YAML_KEYS = RunKeys(
    device="MODEL.DEVICE",
    weights="MODEL.WEIGHTS",
    output_dir="OUTPUT_DIR",
    batch_size="SOLVER.IMS_PER_BATCH",
    datasets=DatasetKeys(),
    equals=" ",
    resume_lr="FCOS_TRAIN.RESUME_LR",
    optimizer={
        "lr": "SOLVER.BASE_LR",
        "weight_decay": "SOLVER.WEIGHT_DECAY",
        "momentum": "SOLVER.MOMENTUM",
        "nesterov": "SOLVER.NESTEROV",
    },
    image_size="INPUT.MIN_SIZE_TRAIN and INPUT.MAX_SIZE_TRAIN",
    center_sampling_radius="MODEL.FCOS.CENTER_SAMPLING_RADIUS",
    validation_loss="FCOS_TRAIN.VALIDATION_LOSS",
    skip_unreadable_images="FCOS_TRAIN.SKIP_UNREADABLE_IMAGES",
)
LAZY_KEYS = RunKeys(
    device="train.device",
    weights="train.init_checkpoint",
    output_dir="train.output_dir",
    batch_size="dataloader.train.total_batch_size",
    datasets=DatasetKeys(
        "model.num_classes",
        "dataloader.train.dataset.names",
        "dataloader.test.dataset.names",
        "train.drop_classes",
        "train.class_names",
        "model.dense_head.postprocessor.detections_per_image",
        "dataloader.train.mapper.use_instance_mask",
        "dataloader.train.mapper.instance_mask_format",
        "dataloader.train.mapper.use_keypoint",
        "dataloader.evaluator.kpt_oks_sigmas",
    ),
    equals="=",
    resume_lr="train.resume_lr",
    optimizer={
        name: f"optimizer.{name}"
        for name in ("lr", "weight_decay", "momentum", "nesterov", "betas", "eps")
    },
    image_size="dataloader.train.mapper.augmentations",
    center_sampling_radius="model.dense_head.assigner.center_sampling_radius",
    validation_loss="train.validation_loss",
    skip_unreadable_images="dataloader.train.mapper.skip_unreadable_images",
)
