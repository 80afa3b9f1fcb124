"""The datasets ``shapes_train`` and ``shapes_val``, which are drawn at their first use."""

from .dataset import NUM_SHAPES_IMAGES, load_shapes, make_shapes, register_shapes
from .spec import KEYPOINT_CONNECTIONS, KEYPOINT_NAMES, RECIPE_VERSION, SHAPE_CLASSES, SIZE_RANGE

__all__ = [
    "KEYPOINT_CONNECTIONS",
    "KEYPOINT_NAMES",
    "NUM_SHAPES_IMAGES",
    "RECIPE_VERSION",
    "SHAPE_CLASSES",
    "SIZE_RANGE",
    "load_shapes",
    "make_shapes",
    "register_shapes",
]
