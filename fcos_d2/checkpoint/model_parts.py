"""Search for the parts of a model that a checkpoint must have weights for."""

from typing import NamedTuple

from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn

from ..modeling import FCOSLosses, find_dense_heads
from ..modeling.backbone.find_backbones import find_backbones

__all__ = ["ModelParts", "find_parts"]


class ModelParts(NamedTuple):
    """
    The parts of a model, as names in its state dict.

    Attributes:
        backbones (list[str]): Prefixes of the outermost backbones, such as "backbone.".
        heads (list[str]): Prefixes of head networks, such as "proposal_generator.head.": the heads
            of FCOS in any model that a dense head is attached to, and those of other dense
            detectors.
        loss_buffers (set[str]): Names of the buffers in which losses keep statistics between
            batches.
    """

    backbones: list[str]
    heads: list[str]
    loss_buffers: set[str]


def find_parts(model: nn.Module) -> ModelParts:
    """Find backbones, heads and losses in a model of any meta-architecture."""
    owners = set(find_dense_heads(model))
    parts = ModelParts([_prefix(name) for name in find_backbones(model)], [], set())
    for name, module in model.named_modules():
        if isinstance(module, FCOSLosses):
            buffers = module.named_buffers(recurse=False)
            parts.loss_buffers.update(_prefix(name) + buffer for buffer, _ in buffers)
        elif name in owners or isinstance(module, DenseDetector):
            parts.heads.append(f"{_prefix(name)}head.")
    return parts


def _prefix(name: str) -> str:
    """Return the prefix that the tensors of a module have in the state dict."""
    return f"{name}." if name else ""
