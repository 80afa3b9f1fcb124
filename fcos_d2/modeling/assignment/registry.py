"""Target assigners: what they are called with, what they return, and how one is chosen by name."""

from collections.abc import Sequence
from typing import Protocol

from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from detectron2.utils.registry import Registry

from ...arguments import check_registered
from ..levels import Levels
from ..predictions import DensePredictions
from .targets import LocationTargets

__all__ = ["TARGET_ASSIGNER_REGISTRY", "TargetAssigner", "build_target_assigner"]

TARGET_ASSIGNER_REGISTRY = Registry("TARGET_ASSIGNER")
TARGET_ASSIGNER_REGISTRY.__doc__ = """
Registry of target assigners. A registered class is built from (cfg, levels: Levels), and its
instances are called as ``TargetAssigner`` says.
"""


class TargetAssigner(Protocol):
    """The rule that decides which location predicts which box."""

    def __call__(
        self,
        gt_instances: Sequence[Instances],
        feature_sizes: Sequence[tuple[int, int]],
        *,
        image_sizes: Sequence[tuple[int, int]],
        ignore_boxes: Sequence[Boxes] | None = None,
        predictions: DensePredictions | None = None,
    ) -> LocationTargets:
        """
        Assign the boxes of a batch to its locations.

        Args:
            gt_instances (list[Instances]): for each of the N images ``gt_boxes`` (Boxes) and
                ``gt_classes``, on the device of the targets.
            feature_sizes (list[tuple[int, int]]): (Hi, Wi) of each of the L levels.
            image_sizes (list[tuple[int, int]]): height and width of each image without padding.
            ignore_boxes (list[Boxes] | None): for each image regions such as crowds, whose
                locations are not taught to be background; None: there are none. A rule that has
                no use for them may leave ``is_ignored`` None: the dense head fills it in.
            predictions (DensePredictions | None): of the head for these images, for rules that
                compare boxes with them. Their gradients are the assigner's to stop.
        """


def build_target_assigner(cfg: CfgNode, levels: Levels) -> TargetAssigner:
    """
    Build the assigner that ``MODEL.FCOS.TARGET_ASSIGNER`` names.

    Args:
        cfg (CfgNode): handed to the assigner's ``from_config``.
        levels (Levels): whose locations it assigns.

    Raises:
        InputError: no assigner of this name is registered, or it cannot be built.
    """
    name = cfg.MODEL.FCOS.TARGET_ASSIGNER
    check_registered("MODEL.FCOS.TARGET_ASSIGNER", name, TARGET_ASSIGNER_REGISTRY)
    return TARGET_ASSIGNER_REGISTRY.get(name)(cfg, levels)
