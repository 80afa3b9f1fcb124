"""The pixel format and statistics that timm's weights expect, compared with those of a config."""

import logging
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from .timm_package import check_name, import_timm

__all__ = [
    "PIXEL_KEYS",
    "PixelStatistics",
    "configured_pixel_statistics",
    "convert_timm_statistics",
    "pixel_statistics_of_network",
    "pixel_statistics_of_weights",
    "warn_if_statistics_differ",
]

logger = logging.getLogger(__name__)

# Keys of a YAML config for the format, the mean and the standard deviation of pixels.
PIXEL_KEYS = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")
# Tolerance when comparing means and standard deviations of pixels (0 to 255).
_PIXEL_TOLERANCE = 0.1


class PixelStatistics(NamedTuple):
    """
    The pixel format and statistics that the weights of a network expect.

    Attributes:
        format (str): Order of the channels, as in INPUT.FORMAT.
        mean (tuple[float, ...]): Mean of each channel, for pixels from 0 to 255.
        std (tuple[float, ...]): Standard deviation of each channel, for pixels from 0 to 255.
    """

    format: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def format_as(self, keys: Sequence[str]) -> str:
        """
        Format the three values as lines of a config.

        Args:
            keys (Sequence[str]): Keys of format, mean and standard deviation.
        """
        values = (f'"{self.format}"', list(self.mean), list(self.std))
        return "\n".join(f"  {key}: {value}" for key, value in zip(keys, values, strict=True))

    def agrees_with(self, other: "PixelStatistics") -> bool:
        """Return whether format and statistics are those of ``other``, except for rounding."""
        values, other_values = [*self.mean, *self.std], [*other.mean, *other.std]
        return (
            self.format == other.format
            and len(values) == len(other_values)
            and all(
                abs(a - b) < _PIXEL_TOLERANCE for a, b in zip(values, other_values, strict=True)
            )
        )


def warn_if_statistics_differ(
    name: str,
    expected: PixelStatistics,
    configured: PixelStatistics,
    name_key: str,
    pixel_keys: Sequence[str],
) -> None:
    """
    Warn if the pixel statistics of a config are not those that the weights of a network expect.

    Args:
        name (str): Name of the network.
        expected (PixelStatistics): The statistics that the weights expect.
        configured (PixelStatistics): The statistics of the config.
        name_key (str): Key of the config for the name of the network.
        pixel_keys (Sequence[str]): Keys of the config for format, mean and standard deviation.
    """
    if not expected.agrees_with(configured):
        logger.warning(
            "timm's weights for %s = %r were trained on other pixel values than those of the "
            "config (this does not matter when training from random weights). They expect:\n%s",
            name_key,
            name,
            expected.format_as(pixel_keys),
        )


def pixel_statistics_of_network(name: str) -> PixelStatistics:
    """
    Return the pixel format and statistics that timm's weights for a network expect.

    Args:
        name (str): Name of the network.

    Raises:
        InputError: If timm is not installed, or it does not have the network.
    """
    timm = import_timm()
    check_name(timm, name)
    return pixel_statistics_of_weights(timm, name)


def pixel_statistics_of_weights(timm: ModuleType, name: str) -> PixelStatistics:
    """Return the statistics of a network for which ``check_name`` has been called."""
    return convert_timm_statistics(
        timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    )


def convert_timm_statistics(statistics: dict[str, Any]) -> PixelStatistics:
    """
    Convert statistics of timm, which are for pixels from 0 to 1, to pixels from 0 to 255.

    Args:
        statistics (dict): A dict of timm with "mean" and "std".
    """
    mean, std = (tuple(round(255 * x, 3) for x in statistics[key]) for key in ("mean", "std"))
    return PixelStatistics("RGB", mean, std)


def configured_pixel_statistics(cfg: CfgNode) -> PixelStatistics:
    """Return the pixel format and statistics of a config."""
    return PixelStatistics(
        cfg.INPUT.FORMAT, tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD)
    )
