"""
``FCOSDenseHead``: all parts of FCOS after the backbone, from feature maps to losses and detections.

Meta-architectures and proposal generators that are built on FCOS share it.

N = images, K = classes, C = channels, L = levels, Hi x Wi = cells of level i.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

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
    The parts of FCOS after the backbone, which are built separately, and their joint operations.

    The meta-architecture ``FCOS`` and proposal generators only adapt it to an interface of
    detectron2. It is not an nn.Module. Instead its parts become attributes of the module that owns
    it (``attach_to``). So the names in state dicts are ``head.*`` and ``losses.*``, as in released
    checkpoints.

    Attributes:
        head (nn.Module): The network, a ``head.HeadNetwork``.
        levels (Levels): The levels that assigner, losses and postprocessor were built with.
        assigner (TargetAssigner): Assigns targets, see ``assignment.TargetAssigner``.
        losses (FCOSLosses): Computes the losses; another nn.Module with its interface is possible.
        postprocessor (FCOSPostProcessor): Computes the detections.
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
            cfg (CfgNode): The config, which is passed to the parts.
            input_shape (list[ShapeSpec]): Channels and strides of the L maps, see
                ``levels.select_maps``.
            num_classes (int): K, foreground classes only.

        Raises:
            InputError: If parts cannot be built. The message lists the faults of all parts.
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
            **kwargs (Any): Other arguments of the network, such as ``with_tower_features`` of
                ``head.FCOSHead``.
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
        Assign targets to the locations.

        If the assigner leaves ``is_ignored`` None, the locations in ``ignore_boxes`` are ignored.

        Args:
            predictions (DensePredictions): Outputs of the head.
            gt_instances (list[Instances]): See ``assignment.TargetAssigner``.
            image_sizes (list[tuple[int, int]]): Height and width of each image without padding.
            ignore_boxes (list[Boxes] | None): See ``assignment.TargetAssigner``.
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
        """
        Compute the losses by name, normalized over all processes.

        Args:
            predictions (DensePredictions): See ``assign``.
            gt_instances (list[Instances]): See ``assign``.
            image_sizes (list[tuple[int, int]]): See ``assign``.
            ignore_boxes (list[Boxes] | None): See ``assign``.

        Returns:
            dict[str, Tensor]: () float32 by name.
        """
        targets = self.assign(predictions, gt_instances, image_sizes, ignore_boxes)
        return self.losses(predictions, targets)

    def compute_loss_terms(
        self,
        predictions: DensePredictions,
        gt_instances: Sequence[Instances],
        image_sizes: Sequence[tuple[int, int]],
        ignore_boxes: Sequence[Boxes] | None = None,
    ) -> LossTerms:
        """
        Compute the losses as sums, before they are normalized.

        Args:
            predictions (DensePredictions): See ``assign``.
            gt_instances (list[Instances]): See ``assign``.
            image_sizes (list[tuple[int, int]]): See ``assign``.
            ignore_boxes (list[Boxes] | None): See ``assign``.
        """
        targets = self.assign(predictions, gt_instances, image_sizes, ignore_boxes)
        return self.losses.compute_loss_terms(predictions, targets)

    def detect(
        self, predictions: DensePredictions, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """
        Compute the detections of each image, see ``postprocessing.FCOSPostProcessor``.

        Args:
            predictions (DensePredictions): Outputs of the head.
            image_sizes (list[tuple[int, int]]): Height and width of each image without padding.
        """
        return self.postprocessor(predictions, image_sizes)

    @property
    def has_standard_inference(self) -> bool:
        """Whether ``detect`` and the post-processing are those of this package."""
        return type(self) is FCOSDenseHead and type(self.postprocessor) is FCOSPostProcessor

    def attach_to(self, owner: nn.Module, input_shape: Sequence[ShapeSpec]) -> None:
        """
        Set the parts as attributes of a module, under their names here.

        Args:
            owner (nn.Module): The module; head and losses become its submodules.
            input_shape (list[ShapeSpec]): Channels and strides of the L maps that it will pass to
                the head.

        Raises:
            InputError: If maps, levels, head and losses do not fit together.
        """
        self._check_fit(input_shape)
        for name, part in vars(self).items():
            setattr(owner, name, part)
        owner.dense_head_type = type(self)  # type: ignore[assignment]
        owner.dense_head_parts = tuple(vars(self))  # type: ignore[assignment]

    @staticmethod
    def of(owner: nn.Module) -> "FCOSDenseHead":
        """
        Return the dense head of a module, to which one was attached before.

        Args:
            owner (nn.Module): A module that was passed to ``attach_to``.

        Returns:
            FCOSDenseHead: A dense head of the type that was attached, with the current parts of the
            module.
        """
        attached = cast(_DenseHeadOwner, owner)
        parts = {name: getattr(owner, name) for name in attached.dense_head_parts}
        return attached.dense_head_type(**parts)

    def _check_fit(self, input_shape: Sequence[ShapeSpec]) -> None:
        """Check that maps, levels, head and losses fit together."""
        strides = tuple(shape.stride for shape in input_shape)
        if strides != self.levels.strides:
            raise InputError(
                f"levels.strides = {list(self.levels.strides)}, but the strides of the maps are "
                f"{list(strides)}: build the levels with these strides.",
                key="levels.strides",
                value=self.levels.strides,
            )
        # Parts of third-party packages may not define these attributes.
        for name in ("assigner", "losses", "postprocessor"):
            levels = getattr(getattr(self, name), "levels", self.levels)
            if levels != self.levels:
                raise InputError(
                    f"The {name} part was built with {levels}, the model has {self.levels}: build "
                    "all parts with the same levels.",
                    key=name,
                    value=levels,
                )
        for name, expected in (
            ("num_levels", len(self.levels)),
            ("in_channels", input_shape[0].channels),
        ):
            actual = getattr(self.head, name, expected)
            if isinstance(actual, int) and actual != expected:
                raise InputError(
                    f"The head's {name} is {actual}, the model's is {expected}: build the head for "
                    "the maps of head_in_features.",
                    key=name,
                    value=actual,
                )
        box_quality = getattr(self.losses, "box_quality", None)
        predicts = getattr(self.head, "predict_quality", None)
        if None not in (box_quality, predicts) and predicts != (box_quality != "none"):
            raise InputError(
                f"The head's predict_quality is {predicts}, the model's is "
                f"{box_quality != 'none'}: a head must have a quality branch unless box_quality is "
                "'none'.",
                key="predict_quality",
                value=predicts,
            )


class _DenseHeadOwner(Protocol):
    """A module to which a dense head was attached."""

    dense_head_type: type[FCOSDenseHead]
    dense_head_parts: tuple[str, ...]


def find_dense_heads(model: nn.Module) -> dict[str, FCOSDenseHead]:
    """
    Find all dense heads of a model.

    Args:
        model (nn.Module): A model of any meta-architecture.

    Returns:
        dict[str, FCOSDenseHead]: Dense heads by the names of the modules that own them.
    """
    return {
        name: FCOSDenseHead.of(module)
        for name, module in model.named_modules()
        if hasattr(module, "dense_head_type")
    }
