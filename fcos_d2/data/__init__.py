"""Datasets and their images; importing this package registers the shapes datasets."""

from .dataset_mapper import FCOSDatasetMapper
from .shapes import make_shapes, register_shapes

register_shapes()

__all__ = ["FCOSDatasetMapper", "make_shapes", "register_shapes"]
