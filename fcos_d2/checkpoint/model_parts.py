"""The parts of a model that weights are looked for, found by what they are."""

from typing import NamedTuple

from detectron2.modeling import Backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn

from ..modeling import FCOSDenseHead, FCOSLosses

__all__ = ["ModelParts", "find_parts"]


class ModelParts(NamedTuple):
    """
    Prefixes of the state dict, such as "proposal_generator.head.".

    Attributes:
        backbones (list[str]): of outermost backbones.
        heads (list[str]): of head networks: of FCOS, in any model that has a dense head, and of
            other dense detectors.
        losses (list[str]): of modules that hold no weights, but what losses remember of batches.
    """

    backbones: list[str]
    heads: list[str]
    losses: list[str]


def find_parts(model: nn.Module) -> ModelParts:
    """Find backbones, heads and losses in a model of any meta-architecture."""
    parts = ModelParts([], [], [])
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, Backbone):
            if not any(prefix.startswith(outer) for outer in parts.backbones):
                parts.backbones.append(prefix)
        elif isinstance(module, FCOSLosses):
            parts.losses.append(prefix)
        elif isinstance(module, DenseDetector) or isinstance(
            getattr(module, "dense_head", None), FCOSDenseHead
        ):
            parts.heads.append(f"{prefix}head.")
    return parts
