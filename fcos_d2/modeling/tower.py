"""
The towers of the head: convolutions that all levels share, with shared or separate normalization.

N = images, C = channels, L = levels, Hi x Wi = cells of level i.
"""

from torch import Tensor, nn

from .layers.deformable import DeformableConv
from .layers.norms import build_norm

__all__ = ["NormPerLevel", "Tower", "build_tower"]


class Tower(nn.Sequential):
    """A sequence of layers that passes the level of a map to its ``NormPerLevel`` layers."""

    def forward(self, x: Tensor, level: int) -> Tensor:  # type: ignore[override]
        """
        Run the layers on the map of one level.

        Args:
            x (Tensor): (N, C, Hi, Wi), the map.
            level (int): Index of the level, which selects the norms; 0 is the finest.

        Returns:
            Tensor: (N, C, Hi, Wi), where C is the number of channels of the last convolution.
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
    Build a tower: 3x3 convolution, norm and ReLU, repeated.

    Args:
        in_channels (int): Number of channels of the input maps.
        channels (int): Number of channels of all outputs; for "GN" a multiple of 32.
        num_convs (int): Number of convolutions. With 0, the tower returns its input.
        norm (str): "GN" (32 groups) is shared by all levels; for "BN", "SyncBN" and "naiveSyncBN"
            see ``NormPerLevel``; "" is none.
        num_levels (int): L.
        deformable (bool): Make the last convolution a ``layers.deformable.DeformableConv``.
    """
    layers: list[nn.Module] = []
    for index in range(num_convs):
        # Convolutions have a bias also before a norm, as in all released checkpoints.
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
    A separate BatchNorm for each level.

    The maps of different levels have different statistics. A running average over all levels would
    fit none of them in inference. The level of a map is an argument and is not derived from the
    number of calls, so levels can be run in any order, repeatedly, or not at all.

    Args:
        norm (str): "BN", "SyncBN" or "naiveSyncBN", see ``layers.norms.build_norm``. The names in
            the state dict are the same for all three.
        channels (int): C.
        num_levels (int): L.
    """

    def __init__(self, norm: str, channels: int, num_levels: int) -> None:
        super().__init__(build_norm(norm, channels) for _ in range(num_levels))

    def forward(self, x: Tensor, level: int) -> Tensor:
        """Normalize the map (N, C, Hi, Wi) of a level."""
        return self[level](x)
