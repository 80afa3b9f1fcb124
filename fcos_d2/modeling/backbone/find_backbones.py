"""Finding the backbones of a model of any meta-architecture."""

from detectron2.modeling import Backbone
from torch import nn

__all__ = ["find_backbones"]


def find_backbones(model: nn.Module) -> dict[str, Backbone]:
    """
    Find the outermost backbones of a model: those that are not inside another backbone.

    Args:
        model (nn.Module): A model of any meta-architecture.

    Returns:
        dict[str, Backbone]: Backbones by their names in the model.
    """
    backbones: dict[str, Backbone] = {}
    for name, module in model.named_modules():
        is_inside = any(not outer or name.startswith(f"{outer}.") for outer in backbones)
        if isinstance(module, Backbone) and not is_inside:
            backbones[name] = module
    return backbones
