"""Drawing of boxes, masks and keypoints, with labels that stay readable, in any script."""

from .fonts import DrawableNames, drawable_names
from .keypoints import Bone, Skeleton, build_skeleton, scores_to_visibility
from .objects import DrawnObjects
from .pictures import Picture, draw_objects, draw_side_by_side, save_picture

__all__ = [
    "Bone",
    "DrawableNames",
    "DrawnObjects",
    "Picture",
    "Skeleton",
    "build_skeleton",
    "draw_objects",
    "draw_side_by_side",
    "drawable_names",
    "save_picture",
    "scores_to_visibility",
]
