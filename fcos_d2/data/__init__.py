"""Datasets that come with the project; importing this package registers them."""

from .shapes_dataset import make_shapes, register_shapes

register_shapes()

__all__ = ["make_shapes", "register_shapes"]
