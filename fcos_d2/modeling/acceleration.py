"""Speed options that any meta-architecture can have: results differ by rounding alone."""

from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from torch import nn

from ..arguments import FLAG, Arguments
from .backbone.folding import fold_frozen_norms
from .backbone.outermost import find_backbones
from .dense_head import find_dense_heads

__all__ = ["ACCELERATION_ARGUMENTS", "Acceleration", "prepare_for_speed"]


ACCELERATION_ARGUMENTS = Arguments(
    "MODEL.FCOS", fold_frozen_bn=FLAG, channels_last=FLAG, compile=FLAG
)


class Acceleration(NamedTuple):
    """
    How a model is sped up, in training and in inference.

    Attributes:
        fold_frozen_bn (bool): fold FrozenBatchNorm2d of backbones into their convolutions, see
            ``backbone.folding.fold_frozen_norms``.
        channels_last (bool): keep weights and maps in that memory format.
        compile (bool): torch.compile for backbones and heads of FCOS, each one graph for images of
            all sizes. The rest is fast as it is.
    """

    fold_frozen_bn: bool = True
    channels_last: bool = True
    compile: bool = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Acceleration":
        """Read MODEL.FCOS.FOLD_FROZEN_BN, CHANNELS_LAST and COMPILE."""
        return cls(**ACCELERATION_ARGUMENTS.read(cfg))


def prepare_for_speed(model: nn.Module, acceleration: Acceleration) -> None:
    """
    Speed a model up in place; names in its state dict stay as they are.

    Args:
        model (nn.Module): of any meta-architecture, before it is wrapped in
            DistributedDataParallel.
        acceleration (Acceleration): what to do.

    Raises:
        InputError: an option that is neither True nor False.
    """
    ACCELERATION_ARGUMENTS.check(acceleration._asdict())
    backbones = find_backbones(model).values()
    if acceleration.fold_frozen_bn:
        for backbone in backbones:
            fold_frozen_norms(backbone)
    if acceleration.channels_last:
        model.to(memory_format=torch.channels_last)
    if acceleration.compile:
        heads = [dense_head.head for dense_head in find_dense_heads(model).values()]
        for network in (*backbones, *heads):
            network.compile(dynamic=True)
