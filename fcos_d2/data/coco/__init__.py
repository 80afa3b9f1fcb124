"""
Datasets in COCO's format: reading, checking and registering them.

``report`` describes them; it is imported by itself, as it needs more packages.
"""

from .box_checks import is_finite
from .reading import make_dataset_dicts
from .registration import (
    CheckedDataset,
    CocoDataset,
    class_indices,
    dataset_text,
    parse_dataset,
    register,
    register_coco_dataset,
    registered_datasets,
)
from .split_checks import DatasetKeys, check_datasets

__all__ = [
    "CheckedDataset",
    "CocoDataset",
    "DatasetKeys",
    "check_datasets",
    "class_indices",
    "dataset_text",
    "is_finite",
    "make_dataset_dicts",
    "parse_dataset",
    "register",
    "register_coco_dataset",
    "registered_datasets",
]
