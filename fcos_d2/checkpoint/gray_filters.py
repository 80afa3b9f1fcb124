"""Weights for color images in a model for images with one channel."""

from typing import Any

from torch import nn

__all__ = ["sum_color_filters"]


def sum_color_filters(weights: dict[str, Any], model: nn.Module) -> str | None:
    """
    Sum the filters of the first layer over the channels of color images.

    On an image with three equal channels, the filters before and after the sum compute the same.
    The names of the file and of the model may differ, so the layer is recognized by its shape.

    Args:
        weights (dict[str, Tensor | ndarray]): Weights by name. The filters are replaced in place.
        model (nn.Module): The model that will load the weights.

    Returns:
        str | None: The name of the filters in the file. None if the model's images have more than
        one channel, or if the file has not exactly one weight that fits its first layer except for
        three channels.
    """
    # Depthwise convolutions also have filters of one channel, but more than one input channel.
    first_layers = [x for x in model.modules() if isinstance(x, nn.Conv2d) and x.in_channels == 1]
    shapes = {(x.out_channels, 3, *x.kernel_size) for x in first_layers}
    names = [name for name, x in weights.items() if tuple(x.shape) in shapes]
    if len(names) != 1:
        return None
    weights[names[0]] = weights[names[0]].sum(1, keepdims=True)
    return names[0]
