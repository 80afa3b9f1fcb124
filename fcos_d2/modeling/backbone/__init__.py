"""
Backbones: a bottom-up network (detectron2's ResNet or one of timm) and a neck (FPN or BiFPN).

- ``builders``: the registered backbones.
- ``resnet``: detectron2's ResNet as the bottom-up network.
- ``timm_network``, ``timm_package``, ``timm_pixels``, ``traced_maps``: networks of timm.
- ``fpn``: detectron2's FPN with the extra levels of FCOS.
- ``bifpn``: the BiFPN neck.
- ``unused_maps``: the check for maps that no level of the head uses.
- ``find_backbones``: finding the backbones of a model.
- ``folding``: folding of frozen batch norms into convolutions.
"""

from .bifpn import BiFPN
from .builders import (
    build_fcos_backbone,
    build_fcos_resnet_bifpn_backbone,
    build_fcos_resnet_fpn_backbone,
    build_fcos_timm_bifpn_backbone,
    build_fcos_timm_fpn_backbone,
)
from .timm_network import TimmBackbone

__all__ = [
    "BiFPN",
    "TimmBackbone",
    "build_fcos_backbone",
    "build_fcos_resnet_bifpn_backbone",
    "build_fcos_resnet_fpn_backbone",
    "build_fcos_timm_bifpn_backbone",
    "build_fcos_timm_fpn_backbone",
]
