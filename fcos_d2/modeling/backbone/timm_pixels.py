"""Pixels as timm's weights want them, and as a config gives them."""

import logging
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from .timm_package import check_name, import_timm

__all__ = [
    "PIXEL_KEYS",
    "TimmPixels",
    "configured_pixels",
    "pixels_from",
    "pixels_of_network",
    "pixels_of_weights",
    "warn_of_other_pixels",
]

logger = logging.getLogger(__name__)

# Where a YAML config has the format, the mean and the standard deviation of pixels.
PIXEL_KEYS = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")
# Mean and standard deviation of pixels (0 to 255) are taken as equal when closer than this.
_PIXEL_TOLERANCE = 0.1


class TimmPixels(NamedTuple):
    """Pixels of an image as the weights of a network want them."""

    format: str  # the order of channels, as INPUT.FORMAT
    mean: tuple[float, ...]  # of pixels of 0 to 255
    std: tuple[float, ...]

    def under(self, keys: Sequence[str]) -> str:
        """A line for each of the three, under the names that a config has for them."""
        values = (f'"{self.format}"', list(self.mean), list(self.std))
        return "\n".join(f"  {key}: {value}" for key, value in zip(keys, values, strict=True))

    def fit(self, other: "TimmPixels") -> bool:
        """Whether they are the same, but for rounding of the statistics."""
        ours, others = [*self.mean, *self.std], [*other.mean, *other.std]
        return (
            self.format == other.format
            and len(ours) == len(others)
            and all(abs(a - b) < _PIXEL_TOLERANCE for a, b in zip(ours, others, strict=True))
        )


def warn_of_other_pixels(
    name: str, wanted: TimmPixels, configured: TimmPixels, name_key: str, pixel_keys: Sequence[str]
) -> None:
    """
    Say so if a config gives a network of timm other pixels than its weights want.

    Args:
        name (str): of the network.
        wanted, configured (TimmPixels): those of the weights, those of the config.
        name_key (str): where the config has the name.
        pixel_keys (Sequence[str]): where it has format, mean and standard deviation.
    """
    if not wanted.fit(configured):
        logger.warning(
            "timm's weights for %s = %r were trained on other pixel values than the config gives "
            "(harmless when training from random weights). What they want:\n%s",
            name_key,
            name,
            wanted.under(pixel_keys),
        )


def pixels_of_network(name: str) -> TimmPixels:
    """
    Get what timm's weights for a network want.

    Raises:
        InputError: timm is not installed, or does not know the network.
    """
    timm = import_timm()
    check_name(timm, name)
    return pixels_of_weights(timm, name)


def pixels_of_weights(timm: ModuleType, name: str) -> TimmPixels:
    """Get what timm's weights for a network want; timm knows it."""
    return pixels_from(
        timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    )


def pixels_from(statistics: dict[str, Any]) -> TimmPixels:
    """Convert timm's mean and standard deviation, of pixels of 0 to 1."""
    mean, std = (tuple(round(255 * x, 3) for x in statistics[key]) for key in ("mean", "std"))
    return TimmPixels("RGB", mean, std)


def configured_pixels(cfg: CfgNode) -> TimmPixels:
    """Get what a config gives a network."""
    return TimmPixels(cfg.INPUT.FORMAT, tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD))
