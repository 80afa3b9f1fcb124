"""Mean and standard deviation of pixels, which images are normalized by."""

from collections.abc import Sequence

from ..config_rules import check_values
from ..errors import InputError

__all__ = ["check_pixel_statistics"]


def check_pixel_statistics(pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
    """
    Check the statistics of pixels.

    Args:
        pixel_mean, pixel_std (list[float]): one value for each image channel.

    Raises:
        InputError: they are not numbers, or of different lengths.
    """
    check_values({"MODEL.PIXEL_MEAN": pixel_mean, "MODEL.PIXEL_STD": pixel_std})
    if len(pixel_mean) != len(pixel_std):
        raise InputError(
            f"MODEL.PIXEL_MEAN has {len(pixel_mean)} values, one for each image channel, but "
            f"MODEL.PIXEL_STD has {len(pixel_std)}."
        )
