"""Reading images, as detectron2's ``read_image`` does, with errors that name the file."""

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
    Open and decode an image, turned upright as its EXIF data say.

    Args:
        file (str): its path, or a URL that detectron2's PathManager knows.
        size (tuple[int, int]): width and height in pixels that the image must have; None for any.

    Raises:
        InputError: the file is missing, not an image, damaged, or of another size.
    """
    try:
        with PathManager.open(str(file), "rb") as opened:
            image: Image.Image = _apply_exif_orientation(Image.open(opened))
            image.load()
    # A damaged file can make PIL's readers raise anything.
    except Exception as error:
        raise InputError(
            f"The image {file} cannot be read: {type(error).__name__}: {error}", file=str(file)
        ) from error
    if size is not None and image.size != tuple(size):
        raise InputError(
            f"The image {file} is {image.size} pixels large, width first, but its annotations are "
            f"for {tuple(size)}.{_HINT_OF_ROTATION * (image.size == tuple(size)[::-1])}",
            file=str(file),
        )
    return image


_HINT_OF_ROTATION = (
    " The two sides are swapped: the file may carry an EXIF rotation, which is applied when it is "
    "read. Save the image without it, and annotate what it then shows."
)


def image_to_array(image: Image.Image, image_format: str) -> NDArray[Any]:
    """
    Convert an image to an array.

    Args:
        image (Image): of ``open_image``.
        image_format (str): one of detectron2's, such as "BGR" or "RGB".

    Returns:
        array: (H, W, C), uint8; in the format "YUV-BT.601" float.
    """
    array: NDArray[Any] = convert_PIL_to_numpy(image, image_format)
    return array
