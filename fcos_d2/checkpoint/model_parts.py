"""The parts of a model that weights are looked for, found by what they are."""

from typing import NamedTuple

from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn

from ..modeling import FCOSLosses, find_dense_heads
from ..modeling.backbone.outermost import find_backbones

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
    parts = ModelParts([_prefix(name) for name in find_backbones(model)], [], set())
    for name, module in model.named_modules():
        if isinstance(module, FCOSLosses):
            buffers = module.named_buffers(recurse=False)
            parts.memories.update(_prefix(name) + buffer for buffer, _ in buffers)
        elif name in owners or isinstance(module, DenseDetector):
            parts.heads.append(f"{_prefix(name)}head.")
    return parts


def _prefix(name: str) -> str:
    """Of the state dict's names of a module's tensors."""
    return f"{name}." if name else ""
