"""The backbones of a model of any meta-architecture."""

from detectron2.modeling import Backbone
from torch import nn

__all__ = ["find_backbones"]


def find_backbones(model: nn.Module) -> dict[str, Backbone]:
    """Find the backbones that are not part of another one, by their names."""
    found: dict[str, Backbone] = {}
    for name, module in model.named_modules():
        is_inside = any(not outer or name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, Backbone) and not is_inside:
            found[name] = module
    return found
