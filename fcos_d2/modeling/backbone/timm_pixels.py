"""Pixels as timm's weights want them, and as a config gives them."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["PIXEL_KEYS", "TimmPixels", "warn_of_other_pixels"]

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
            name_key, name, wanted.under(pixel_keys),
        )  # fmt: skip
