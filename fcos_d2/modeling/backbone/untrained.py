"""Maps of a backbone that nothing uses, and whose weights therefore never learn."""

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
    Find maps that no level of a head uses, if weights lead to them that get no gradient otherwise.

    Which weights those are is found by a backward pass without values (on the device "meta"), for
    any backbone. They are named in a warning; where the backbone cannot run that way, it is taken
    to have such weights, and the warning says so.

    Args:
        backbone (Backbone): with the map names and strides of its ``output_shape()``.
        feature_names (Sequence[str]): of the maps that are used.

    Returns:
        list[str]: names of the unused maps, or none where no weight is left without a gradient.
    """
    unused = [name for name in backbone.output_shape() if name not in feature_names]
    if not unused or not any(x.requires_grad for x in backbone.parameters()):
        return []
    try:
        untrained = _weights_without_gradient(backbone, feature_names)
    except Exception as error:  # whatever a network's own code raises on tensors without values
        reason = f"whether weights lead to them alone could not be found out ({error})"
    else:
        if not untrained:
            return []
        reason = (
            f"{len(untrained)} of its weights never get a gradient ({untrained[0]}, ...)"
            if len(untrained) > 1
            else f"its weight {untrained[0]} never gets a gradient"
        )
    logger.warning(
        "The backbone makes %s, which no level of the head uses: %s, and several processes cannot "
        "train the model.",
        unused,
        reason,
    )
    return unused


def _weights_without_gradient(backbone: Backbone, feature_names: Sequence[str]) -> list[str]:
    """Names of the trainable parameters that the maps are not made from."""
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
