"""The mean and standard deviation of pixels, by which images are normalized."""

from collections.abc import Sequence

from ..arguments import POSITIVE, Arguments, Rule, is_number, list_of
from ..errors import InputError, count_words

__all__ = ["PIXEL_ARGUMENTS", "check_pixel_statistics"]


PIXEL_ARGUMENTS = Arguments(
    "MODEL",
    pixel_mean=list_of(Rule("a number", is_number), at_least=1),
    pixel_std=list_of(POSITIVE, at_least=1),
)


def check_pixel_statistics(pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
    """
    Check the mean and standard deviation of pixels.

    Args:
        pixel_mean (list[float]): Means, one for each image channel.
        pixel_std (list[float]): Standard deviations, one for each image channel.

    Raises:
        InputError: If a value is not a number, a standard deviation is not positive, or the two
            lists have different lengths.
    """
    PIXEL_ARGUMENTS.check(locals())
    if len(pixel_mean) != len(pixel_std):
        raise InputError(
            f"MODEL.PIXEL_MEAN has {count_words(len(pixel_mean), '{value|values}')}, one for each "
            f"image channel, but MODEL.PIXEL_STD has {len(pixel_std)}.",
            key="MODEL.PIXEL_STD",
            value=pixel_std,
        )
