"""The constants of the shapes datasets that are needed without drawing them."""

__all__ = [
    "ANNOTATION_VERSION",
    "KEYPOINT_CONNECTIONS",
    "KEYPOINT_NAMES",
    "RECIPE_VERSION",
    "SHAPE_CLASSES",
    "SIZE_RANGE",
]

# This version must be increased when a pixel changes after a release. Datasets of other versions
# are refused.
RECIPE_VERSION = 1
# This version must be increased when only annotations change. Annotations of earlier versions are
# written again. Version 2 added the keypoints.
ANNOTATION_VERSION = 2
SHAPE_CLASSES = ("circle", "rectangle", "triangle", "star", "ring", "cross")
SIZE_RANGE = (6.0, 120.0)  # longest side of an object's box in pixels, without occlusion
# Five points of each object, clockwise in the object's own frame. Two neighbors are connected.
KEYPOINT_NAMES = ("top", "upper_right", "lower_right", "lower_left", "upper_left")
KEYPOINT_CONNECTIONS = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 0))
