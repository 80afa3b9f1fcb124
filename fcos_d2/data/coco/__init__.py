"""
Reading, checking and registering of datasets in COCO's format.

The module ``report``, which describes them, is not imported here because it needs more packages.
"""

from .box_checks import is_finite
from .reading import make_dataset_dicts
from .registration import (
    CheckedDataset,
    CocoDataset,
    class_indices,
    dataset_text,
    normalized_content,
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
    "normalized_content",
    "parse_dataset",
    "register",
    "register_coco_dataset",
    "registered_datasets",
]
