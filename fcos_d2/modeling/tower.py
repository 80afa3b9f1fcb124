"""
The towers of the head: convolutions that all levels share, norms that they share or do not.

N = images, C = channels, L = levels, Hi x Wi = cells of level i.
"""

from torch import Tensor, nn

from .layers.deformable import DeformableConv
from .layers.norms import build_norm

__all__ = ["NormPerLevel", "Tower", "build_tower"]


class Tower(nn.Sequential):
    """A plain nn.Sequential, but that it tells ``NormPerLevel`` which level a map is of."""

    def forward(self, x: Tensor, level: int) -> Tensor:  # type: ignore[override]
        """
        Args:
            x (Tensor): (N, C, Hi, Wi), a map of that level.
            level (int): i, from 0 for the finest, whose norms are to be used.

        Returns:
            Tensor: (N, C', Hi, Wi).
        """
        for layer in self:
            x = layer(x, level) if isinstance(layer, NormPerLevel) else layer(x)
        return x


def build_tower(
    in_channels: int,
    channels: int,
    num_convs: int,
    norm: str,
    num_levels: int,
    deformable: bool = False,
) -> Tower:
    """
    (Convolution 3x3, norm, ReLU) again and again.

    Args:
        in_channels (int): of the maps.
        channels (int): of every convolution's output. GN wants a multiple of 32.
        num_convs (int): 0 makes a tower that gives back what it gets.
        norm (str): "GN": 32 groups, shared by all levels; "BN", "SyncBN" or "naiveSyncBN": see
            ``NormPerLevel``; "": none.
        num_levels (int): L.
        deformable (bool): the last convolution is a ``layers.deformable.DeformableConv``.
    """
    layers: list[nn.Module] = []
    for index in range(num_convs):
        # The convolutions keep their bias under a norm: so did every released checkpoint.
        if deformable and index == num_convs - 1:
            layers.append(DeformableConv(in_channels, channels))
        else:
            layers.append(nn.Conv2d(in_channels, channels, kernel_size=3, padding=1))
        if norm == "GN":
            layers.append(build_norm(norm, channels))
        elif norm:
            layers.append(NormPerLevel(norm, channels, num_levels))
        layers.append(nn.ReLU(inplace=True))
        in_channels = channels
    return Tower(*layers)


class NormPerLevel(nn.ModuleList):
    """
    One BatchNorm a level: maps of different levels have different statistics, and one running
    average of all of them would fit none in inference.

    The caller says which level a map is of. Nothing counts calls, so levels may come in any order,
    more than once, or not at all.

    Args:
        norm (str): "BN", "SyncBN" or "naiveSyncBN", see ``layers.norms.build_norm``.
            State dicts of the three are the same.
        channels (int): C.
        num_levels (int): L.
    """

    def __init__(self, norm: str, channels: int, num_levels: int) -> None:
        super().__init__(build_norm(norm, channels) for _ in range(num_levels))

    def forward(self, x: Tensor, level: int) -> Tensor:
        return self[level](x)
