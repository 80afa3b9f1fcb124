"""The constants of the shapes datasets that are needed without drawing them."""

__all__ = ["RECIPE_VERSION", "SHAPE_CLASSES", "SIZE_RANGE"]

# This version must be increased when a pixel changes after a release. Datasets of other versions
# are refused.
RECIPE_VERSION = 1
SHAPE_CLASSES = ("circle", "rectangle", "triangle", "star", "ring", "cross")
SIZE_RANGE = (6.0, 120.0)  # longest side of an object's box in pixels, without occlusion
