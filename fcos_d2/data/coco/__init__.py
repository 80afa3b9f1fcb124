"""
Reading, checking and registering of datasets in COCO's format.

The module ``report``, which describes them, is not imported here because it needs more packages.
"""

from .box_checks import is_finite
from .findings import Finding
from .normalization import file_ids, normalize
from .reading import make_dataset_dicts
from .registration import (
    CheckedDataset,
    CocoDataset,
    check_coco_dataset,
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
    "Finding",
    "check_coco_dataset",
    "check_datasets",
    "class_indices",
    "dataset_text",
    "file_ids",
    "is_finite",
    "make_dataset_dicts",
    "normalize",
    "normalized_content",
    "parse_dataset",
    "register",
    "register_coco_dataset",
    "registered_datasets",
]
