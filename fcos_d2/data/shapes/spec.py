"""What can be said of the shapes without drawing them."""

__all__ = ["RECIPE_VERSION", "SHAPE_CLASSES", "SIZE_RANGE"]

RECIPE_VERSION = 1  # to be raised when a pixel changes after a release: old sets are then refused
SHAPE_CLASSES = ("circle", "rectangle", "triangle", "star", "ring", "cross")
SIZE_RANGE = (6.0, 120.0)  # longest side of an object's box in pixels, before anything hides it
