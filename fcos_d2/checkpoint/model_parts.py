"""The parts of a model that weights are looked for, found by what they are."""

from typing import NamedTuple

from detectron2.modeling import Backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn

from ..modeling import FCOSLosses, find_dense_heads

__all__ = ["ModelParts", "find_parts"]


class ModelParts(NamedTuple):
    """
    Prefixes of the state dict, such as "proposal_generator.head.".

    Attributes:
        backbones (list[str]): of outermost backbones.
        heads (list[str]): of head networks: of FCOS, in any model that a dense head is attached to,
            and of other dense detectors.
        memories (set[str]): names of the buffers in which losses remember batches.
    """

    backbones: list[str]
    heads: list[str]
    memories: set[str]


def find_parts(model: nn.Module) -> ModelParts:
    """Find backbones, heads and losses in a model of any meta-architecture."""
    owners = set(find_dense_heads(model))
    parts = ModelParts([], [], set())
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, Backbone):
            if not any(prefix.startswith(outer) for outer in parts.backbones):
                parts.backbones.append(prefix)
        elif isinstance(module, FCOSLosses):
            parts.memories.update(f"{prefix}{x}" for x, _ in module.named_buffers(recurse=False))
        elif name in owners or isinstance(module, DenseDetector):
            parts.heads.append(f"{prefix}head.")
    return parts
