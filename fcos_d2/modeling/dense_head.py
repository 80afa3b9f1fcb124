"""
What every model built on FCOS shares: from feature maps to losses and detections.

N = images, C = channels, L = levels, Hi x Wi = cells of level i.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..errors import Collector, InputError
from .assignment import (
    LocationTargets,
    TargetAssigner,
    build_target_assigner,
    locations_in_boxes,
)
from .head import build_head
from .layers.norms import sync_norms_for_device
from .levels import LEVELS_ARGUMENTS, Levels
from .losses import FCOSLosses, LossTerms
from .postprocessing import FCOSPostProcessor
from .predictions import DensePredictions

__all__ = ["FCOSDenseHead", "find_dense_heads"]


@dataclass(frozen=True)
class FCOSDenseHead:
    """
    The parts of FCOS behind the backbone, built apart from each other, and what they do together.

    The meta-architecture FCOS and proposal generators are thin adapters of it. It is not a module
    itself: its owner, a module, holds head and losses under these names (``attach_to``), so
    that state dicts have ``head.*`` and ``losses.*`` as released checkpoints do.

    Attributes:
        head (nn.Module): a ``head.HeadNetwork``.
        levels (Levels): what assigner, losses and postprocessor were built with.
        assigner (TargetAssigner): see ``assignment.TargetAssigner``.
        losses (nn.Module): such as ``losses.FCOSLosses``.
        postprocessor (FCOSPostProcessor): what detections are made with.
    """

    head: nn.Module
    levels: Levels
    assigner: TargetAssigner
    losses: FCOSLosses
    postprocessor: FCOSPostProcessor

    @classmethod
    def from_config(
        cls, cfg: CfgNode, input_shape: Sequence[ShapeSpec], num_classes: int
    ) -> "FCOSDenseHead":
        """
        Build the parts that ``MODEL.FCOS`` describes.

        Args:
            cfg (CfgNode): handed to the parts.
            input_shape (list[ShapeSpec]): the L maps, see ``levels.select_maps``.
            num_classes (int): K, foreground classes only.

        Raises:
            InputError: all that is wrong with the parts.
        """
        levels = Levels([x.stride for x in input_shape], **LEVELS_ARGUMENTS.read(cfg))
        collect = Collector()
        losses = collect(FCOSLosses, cfg, levels)
        predict_quality = losses is None or losses.quality is not None
        head = collect(build_head, cfg, input_shape, num_classes, predict_quality)
        assigner = collect(build_target_assigner, cfg, levels)
        postprocessor = collect(FCOSPostProcessor, cfg, levels)
        collect.check()
        sync_norms_for_device(head, cfg.MODEL.DEVICE)
        return cls(head, levels, assigner, losses, postprocessor)

    def predict(self, features: Sequence[Tensor], **kwargs: Any) -> DensePredictions:
        """
        Run the head network.

        Args:
            features (list[Tensor]): L maps (N, C, Hi, Wi).
            kwargs: of the network, such as ``with_tower_features`` of ``head.FCOSHead``.
        """
        return self.head(features, **kwargs)

    def assign(
        self,
        predictions: DensePredictions,
        gt_instances: Sequence[Instances],
        image_sizes: Sequence[tuple[int, int]],
        ignore_boxes: Sequence[Boxes] | None = None,
    ) -> LocationTargets:
        """
        Assign targets to the locations; for the arguments see ``assignment.TargetAssigner``.

        Where the assigner leaves ``is_ignored`` None, it becomes what lies in ``ignore_boxes``.
        """
        sizes = predictions.feature_sizes
        targets = self.assigner(
            gt_instances,
            sizes,
            image_sizes=image_sizes,
            ignore_boxes=ignore_boxes,
            predictions=predictions,
        )
        if ignore_boxes is None or targets.is_ignored is not None:
            return targets
        return targets._replace(is_ignored=locations_in_boxes(ignore_boxes, sizes, self.levels))

    def compute_losses(
        self,
        predictions: DensePredictions,
        gt_instances: Sequence[Instances],
        image_sizes: Sequence[tuple[int, int]],
        ignore_boxes: Sequence[Boxes] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses by name, of all processes; for the arguments see ``assign``."""
        targets = self.assign(predictions, gt_instances, image_sizes, ignore_boxes)
        return self.losses(predictions, targets)

    def compute_loss_terms(
        self,
        predictions: DensePredictions,
        gt_instances: Sequence[Instances],
        image_sizes: Sequence[tuple[int, int]],
        ignore_boxes: Sequence[Boxes] | None = None,
    ) -> LossTerms:
        """Compute the terms that these images add to the losses, before anything is divided."""
        targets = self.assign(predictions, gt_instances, image_sizes, ignore_boxes)
        return self.losses.compute_loss_terms(predictions, targets)

    def detect(
        self, predictions: DensePredictions, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """Make the detections of each image; see ``postprocessing.FCOSPostProcessor``."""
        return self.postprocessor(predictions, image_sizes)

    def attach_to(self, owner: nn.Module, input_shape: Sequence[ShapeSpec]) -> None:
        """
        Make the parts attributes of a module, under the names that they have here.

        Args:
            owner (nn.Module): head and losses become its children.
            input_shape (list[ShapeSpec]): the L maps that it will give to the head.

        Raises:
            InputError: these maps, the levels, the head and the losses do not fit together.
        """
        self._check_fit(input_shape)
        for name, part in vars(self).items():
            setattr(owner, name, part)
        owner.dense_head_type = type(self)  # type: ignore[assignment]
        owner.dense_head_parts = tuple(vars(self))  # type: ignore[assignment]

    @staticmethod
    def of(owner: Any) -> "FCOSDenseHead":
        """
        Get the dense head of a module that one was attached to.

        Returns:
            FCOSDenseHead: of the type that was attached, with the parts that the module has now.
        """
        return owner.dense_head_type(
            **{name: getattr(owner, name) for name in owner.dense_head_parts}
        )

    def _check_fit(self, input_shape: Sequence[ShapeSpec]) -> None:
        strides = tuple(shape.stride for shape in input_shape)
        if strides != self.levels.strides:
            raise InputError(
                f"levels.strides = {list(self.levels.strides)}, but the strides of the maps are "
                f"{list(strides)}."
            )
        # Parts of other packages may not define these attributes.
        for name in ("assigner", "losses", "postprocessor"):
            levels = getattr(getattr(self, name), "levels", self.levels)
            if levels != self.levels:
                raise InputError(
                    f"The {name} part was built with {levels}, the model has {self.levels}: build "
                    "all parts with the same levels."
                )
        for name, expected in (
            ("num_levels", len(self.levels)),
            ("in_channels", input_shape[0].channels),
        ):
            found = getattr(self.head, name, expected)
            if isinstance(found, int) and found != expected:
                raise InputError(
                    f"The head's {name} is {found}, the model's is {expected}: build the head for "
                    "the maps of head_in_features."
                )
        learned = getattr(self.losses, "box_quality", None)
        predicts = getattr(self.head, "predict_quality", None)
        if None not in (learned, predicts) and predicts != (learned != "none"):
            raise InputError(
                f"The head's predict_quality is {predicts}, the model's is {learned != 'none'}: a "
                "head has a branch for the quality unless box_quality is 'none'."
            )


def find_dense_heads(model: nn.Module) -> dict[str, FCOSDenseHead]:
    """Find the modules that dense heads were attached to: by their names, the dense heads."""
    return {
        name: FCOSDenseHead.of(module)
        for name, module in model.named_modules()
        if hasattr(module, "dense_head_type")
    }
