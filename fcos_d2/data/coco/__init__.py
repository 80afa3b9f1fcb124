"""
Reading, checking and registering of datasets in COCO's format.

The module ``report``, which describes them, is not imported here because it needs more packages.
"""

from .box_checks import is_finite
from .class_checks import DatasetKeys, ModelLimits, check_has_classes
from .dataset_checks import check_coco_dataset
from .descriptions import CheckedDataset, CocoDataset, dataset_text, parse_dataset
from .findings import Finding
from .mask_decoding import decode_segmentation
from .normalization import file_ids, normalize
from .reading import make_dataset_dicts
from .registration import (
    class_indices,
    normalized_content,
    register,
    register_coco_dataset,
    registered_datasets,
)
from .run_lengths import is_run_length_encoding
from .split_checks import check_datasets, find_unregistered

__all__ = [
    "CheckedDataset",
    "CocoDataset",
    "DatasetKeys",
    "Finding",
    "ModelLimits",
    "check_coco_dataset",
    "check_datasets",
    "check_has_classes",
    "class_indices",
    "dataset_text",
    "decode_segmentation",
    "file_ids",
    "find_unregistered",
    "is_finite",
    "is_run_length_encoding",
    "make_dataset_dicts",
    "normalize",
    "normalized_content",
    "parse_dataset",
    "register",
    "register_coco_dataset",
    "registered_datasets",
]
