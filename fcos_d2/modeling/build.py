"""Building of models of any meta-architecture from a config."""

from detectron2.config import CfgNode
from detectron2.modeling import build_model as build_detectron2_model
from torch import nn

from .acceleration import Acceleration, prepare_for_speed
from .backbone.find_backbones import find_backbones
from .backbone.timm_network import warn_of_timm_pixel_statistics
from .dense_head import find_dense_heads
from .fcos import FCOS
from .layers.norms import sync_norms_for_device

__all__ = ["build_model"]


def build_model(cfg: CfgNode) -> nn.Module:
    """
    Build the model of a config with detectron2, and apply our speed options to models on FCOS.

    ``FCOS`` applies them itself. detectron2's meta-architectures, such as a GeneralizedRCNN with
    FCOS as its proposal generator, don't know them.

    Args:
        cfg (CfgNode): A config with the keys of ``add_fcos_config``.

    Raises:
        InputError: If the model cannot be built with the values of the config.
    """
    model = build_detectron2_model(cfg)
    if isinstance(model, FCOS) or not find_dense_heads(model):
        return model
    sync_norms_for_device(model, cfg.MODEL.DEVICE)
    for backbone in find_backbones(model).values():
        warn_of_timm_pixel_statistics(backbone, cfg)
    prepare_for_speed(model, Acceleration.from_config(cfg))
    return model
