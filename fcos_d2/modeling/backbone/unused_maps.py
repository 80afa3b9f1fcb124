"""The check for backbone maps that no level uses, and for weights that never get a gradient."""

import copy
import logging
from collections.abc import Sequence

import torch
from detectron2.modeling import Backbone
from torch import nn

__all__ = ["find_untrained_maps"]

logger = logging.getLogger(__name__)

_MIN_IMAGE_SIZE = 256  # pixels


def find_untrained_maps(backbone: Backbone, feature_names: Sequence[str]) -> list[str]:
    """
    Find the unused maps of a backbone, if some of its weights get no gradient without them.

    The weights without a gradient are found by a backward pass on the device "meta", which has
    shapes but no values. This works for almost any backbone. A warning names these weights. If the
    backbone cannot run on this device, it is assumed to have such weights, and the warning says so.

    Args:
        backbone (Backbone): A backbone with names and strides of maps in ``output_shape()``.
        feature_names (Sequence[str]): Names of the maps that are used.

    Returns:
        list[str]: Names of the unused maps; empty if all weights get a gradient.
    """
    unused = [name for name in backbone.output_shape() if name not in feature_names]
    if not unused or not any(x.requires_grad for x in backbone.parameters()):
        return []
    try:
        untrained = _weights_without_gradient(backbone, feature_names)
    except Exception as error:  # the code of a network may raise anything for meta tensors
        reason = f"the check for weights that only these maps use failed ({error})"
    else:
        if not untrained:
            return []
        reason = (
            f"{len(untrained)} of its weights never get a gradient ({untrained[0]}, ...)"
            if len(untrained) > 1
            else f"its weight {untrained[0]} never gets a gradient"
        )
    logger.warning(
        "The backbone makes %s, which no level of the head uses: %s, and the model cannot be "
        "trained with several processes.",
        unused,
        reason,
    )
    return unused


def _weights_without_gradient(backbone: Backbone, feature_names: Sequence[str]) -> list[str]:
    """Return the names of the trainable parameters that these maps do not depend on."""
    shapes = backbone.output_shape()
    net = copy.deepcopy(backbone).to("meta").eval()
    size = max(_MIN_IMAGE_SIZE, *(shape.stride for shape in shapes.values()))
    stem = next(x for x in net.modules() if isinstance(x, nn.Conv2d))
    image = torch.zeros(1, stem.in_channels, size, size, dtype=stem.weight.dtype, device="meta")
    names, parameters = zip(
        *((name, x) for name, x in net.named_parameters() if x.requires_grad), strict=True
    )
    with torch.enable_grad():
        maps = net(image)
        gradients = torch.autograd.grad(
            [maps[name].sum() for name in feature_names], parameters, allow_unused=True
        )
    return [name for name, x in zip(names, gradients, strict=True) if x is None]
