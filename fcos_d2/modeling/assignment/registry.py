"""The interface of a target assigner, the registry of assigners, and building one by name."""

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
Registry of target assigners. A registered class is called with (cfg, levels: Levels), and its
instances have the interface of ``TargetAssigner``.
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
        Assign the ground-truth boxes of a batch to its locations.

        Args:
            gt_instances (list[Instances]): ``gt_boxes`` (Boxes) and ``gt_classes`` of each of the N
                images, on the device where the targets are needed.
            feature_sizes (list[tuple[int, int]]): (Hi, Wi) of each of the L levels.
            image_sizes (list[tuple[int, int]]): Height and width of each image without padding.
            ignore_boxes (list[Boxes] | None): Regions of each image, such as crowds, whose
                locations are not trained as background. None means that there are none. An
                assigner that does not use them may leave ``is_ignored`` None: the dense head then
                fills it in.
            predictions (DensePredictions | None): Outputs of the head for these images, for rules
                that compare boxes with them. The assigner must detach them from the graph.
        """


def build_target_assigner(cfg: CfgNode, levels: Levels) -> TargetAssigner:
    """
    Build the assigner that ``MODEL.FCOS.TARGET_ASSIGNER`` names.

    Args:
        cfg (CfgNode): The config, which is passed to the assigner's ``from_config``.
        levels (Levels): The levels whose locations are assigned.

    Raises:
        InputError: If no assigner of this name is registered, or it cannot be built.
    """
    name = cfg.MODEL.FCOS.TARGET_ASSIGNER
    check_registered("MODEL.FCOS.TARGET_ASSIGNER", name, TARGET_ASSIGNER_REGISTRY)
    return TARGET_ASSIGNER_REGISTRY.get(name)(cfg, levels)
