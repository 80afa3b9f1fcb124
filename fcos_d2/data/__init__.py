"""Datasets that come with the project; importing this package registers them."""

from .dataset_mapper import FCOSDatasetMapper
from .shapes.dataset import make_shapes, register_shapes

register_shapes()

__all__ = ["FCOSDatasetMapper", "make_shapes", "register_shapes"]
