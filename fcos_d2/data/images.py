"""Reading of images as detectron2's ``read_image`` does, with errors that name the file."""

from os import PathLike
from typing import Any

from detectron2.data.detection_utils import _apply_exif_orientation, convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError

__all__ = ["image_to_array", "open_image"]


def open_image(file: str | PathLike[str], size: tuple[int, int] | None = None) -> Image.Image:
    """
    Open and decode an image, and rotate it as its EXIF data say.

    Args:
        file (str): A path, or a URL that detectron2's PathManager knows.
        size (tuple[int, int]): Width and height in pixels that the image must have; None for any.

    Raises:
        InputError: If the file is missing, is not an image, is damaged, or has another size.
    """
    try:
        with PathManager.open(str(file), "rb") as opened:
            image: Image.Image = _apply_exif_orientation(Image.open(opened))
            image.load()
    # A damaged file can make PIL's readers raise any exception.
    except Exception as error:
        raise InputError(
            f"The image {file} cannot be read: {type(error).__name__}: {error}", file=str(file)
        ) from error
    if size is not None and image.size != tuple(size):
        is_swapped = image.size == tuple(size)[::-1]
        raise InputError(
            f"The image {file} is {image.size} pixels large (width, height), but its annotations "
            f"are for {tuple(size)}.{_ROTATION_HINT if is_swapped else ''}",
            file=str(file),
        )
    return image


_ROTATION_HINT = (
    " The two sides are swapped: the file may have an EXIF rotation, which is applied when it is "
    "read. Save the image without it, and annotate the saved image."
)


def image_to_array(image: Image.Image, image_format: str) -> NDArray[Any]:
    """
    Convert an image to an array.

    Args:
        image (Image): The result of ``open_image``.
        image_format (str): One of detectron2's formats, such as "BGR" or "RGB".

    Returns:
        array: (H, W, C) in uint8, or in float for the format "YUV-BT.601".
    """
    array: NDArray[Any] = convert_PIL_to_numpy(image, image_format)
    return array
