"""Speed options for models of any meta-architecture; they change results only by rounding."""

from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from torch import nn

from ..arguments import FLAG, Arguments, one_of
from .backbone.find_backbones import find_backbones
from .backbone.folding import fold_frozen_norms
from .cuda_graphs import graph_calls
from .dense_head import find_dense_heads

__all__ = ["ACCELERATION_ARGUMENTS", "Acceleration", "prepare_for_speed"]


ACCELERATION_ARGUMENTS = Arguments(
    "MODEL.FCOS",
    fold_frozen_bn=FLAG,
    channels_last=FLAG,
    compile=FLAG,
    cuda_graphs=one_of("none", "inference", "all"),
)


class Acceleration(NamedTuple):
    """
    The speed options of a model, for training and inference.

    Attributes:
        fold_frozen_bn (bool): Fold the FrozenBatchNorm2d of backbones into their convolutions, see
            ``backbone.folding.fold_frozen_norms``.
        channels_last (bool): Store weights and maps of backbones and FCOS heads in the
            channels-last memory format.
        compile (bool): Apply torch.compile to backbones and FCOS heads. Each of them is compiled to
            one graph for all image sizes. Other parts are not compiled, because they would hardly
            get faster.
        cuda_graphs (str): What runs as CUDA graphs on a GPU: "none"; "inference"; or "all",
            inference and training. See ``cuda_graphs.graph_cache.GraphCache``. In FCOS, the graphs
            contain all but NMS and the normalization of losses; in other models, backbones and FCOS
            heads.
    """

    fold_frozen_bn: bool = True
    channels_last: bool = True
    compile: bool = False
    cuda_graphs: str = "none"

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Acceleration":
        """Read FOLD_FROZEN_BN, CHANNELS_LAST, COMPILE and CUDA_GRAPHS of MODEL.FCOS."""
        return cls(**ACCELERATION_ARGUMENTS.read(cfg))


def prepare_for_speed(model: nn.Module, acceleration: Acceleration) -> None:
    """
    Apply speed options to a model in place, without changing the names in its state dict.

    Args:
        model (nn.Module): A model of any meta-architecture, before it is wrapped in
            DistributedDataParallel.
        acceleration (Acceleration): The options.

    Raises:
        InputError: If an option has another value.
    """
    ACCELERATION_ARGUMENTS.check(acceleration._asdict())
    backbones = find_backbones(model).values()
    if acceleration.fold_frozen_bn:
        for backbone in backbones:
            fold_frozen_norms(backbone)
    heads = [dense_head.head for dense_head in find_dense_heads(model).values()]
    for network in (*backbones, *heads):
        if acceleration.channels_last:  # not the ROI heads: those for keypoints need NCHW
            network.to(memory_format=torch.channels_last)
        if acceleration.compile:
            network.compile(dynamic=True)
        if acceleration.cuda_graphs != "none":
            graph_calls(network, trains=acceleration.cuda_graphs == "all")
