"""
Reading of images, with errors that name the file.

Images are read as detectron2's ``read_image`` does, except for gray images of 16 bits, which it
clips at 255: here, a white point becomes 255.
"""

from enum import Enum
from functools import cache
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from detectron2.data.detection_utils import _apply_exif_orientation, convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..arguments import Rule, is_integer
from ..errors import InputError, agree
from .file_types import TOO_LARGE, FileType, find_file_type

__all__ = [
    "WHITE_POINT",
    "WHITE_POINT_RULE",
    "ImageHeader",
    "SizeFault",
    "UnreadableImageError",
    "find_size_fault",
    "find_unreadable_type",
    "image_to_array",
    "is_16_bit",
    "is_readable",
    "open_image",
    "pixel_range",
    "read_header",
    "read_pixel_range",
]

WHITE_POINT = 65535  # the default: the largest value of 16 bits, so that values are divided by 257
WHITE_POINT_RULE = Rule(
    f"an integer from 1 to {WHITE_POINT}", lambda x: is_integer(x) and 1 <= x <= WHITE_POINT
)
_ORIENTATION = 274  # the EXIF tag


class UnreadableImageError(InputError):
    """The error about a file that is missing, is not an image, or is damaged."""


class ImageHeader(NamedTuple):
    """
    What the header of an image file says.

    Attributes:
        size (tuple[int, int]): Width and height in pixels, before the EXIF orientation is applied.
        orientation (int): The EXIF orientation, from 1 (none) to 8.
        mode (str): PIL's mode. Gray images of 16 bits have "I;16".
    """

    size: tuple[int, int]
    orientation: int
    mode: str

    @property
    def is_turned(self) -> bool:
        """Whether the EXIF orientation swaps the sides."""
        return self.orientation >= 5

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in pixels of the image that is read."""
        return self.size[::-1] if self.is_turned else self.size


class SizeFault(Enum):
    """How an image and its annotated size differ; the value is an explanation with a remedy."""

    OTHER = (
        "Correct width and height in the annotations, or use the images that were annotated, if "
        "these are resized copies."
    )
    SWAPPED = (
        "Width and height are swapped in the annotations; the file has no EXIF rotation. Swap them "
        "in the annotations."
    )
    ROTATED = (
        "The file has an EXIF rotation, which is applied when it is read, but the annotations are "
        "for the image without it. Delete the rotation from the file (exiftool -Orientation= FILE)."
    )


def find_size_fault(header: ImageHeader, annotated: tuple[int, int]) -> SizeFault | None:
    """
    Compare the size of an image with its annotations.

    Args:
        header (ImageHeader): The header of the image.
        annotated (tuple[int, int]): Width and height in pixels in the annotations.

    Returns:
        SizeFault | None: How they differ; None if they are equal.
    """
    if header.upright_size == annotated:
        return None
    if header.upright_size != annotated[::-1]:
        return SizeFault.OTHER
    return SizeFault.ROTATED if header.is_turned else SizeFault.SWAPPED


def read_header(file: str | PathLike[str], *, decode: bool = False) -> ImageHeader:
    """
    Read the header of an image without decoding its pixels.

    Args:
        file (str): A path, or a URL that detectron2's PathManager knows.
        decode (bool): Decode the pixels, to find EXIF data after them, which PNG may have.

    Raises:
        UnreadableImageError: If the file is missing or is not an image.
    """
    try:
        with PathManager.open(str(file), "rb") as opened:
            image = Image.open(opened)
            if decode:
                image.load()
            header = _header_of(image)
            if image.format == "TIFF" and header.orientation > 1:
                image.load()  # PIL itself applies the orientation of TIFF, and changes the size
                header = _header_of(image)
            return header
    # A damaged file can make PIL's readers raise any exception.
    except Exception as error:
        raise _reading_error(file, error) from error


def is_readable(file: str | PathLike[str], *, decode: bool = False) -> bool:
    """Return whether ``read_header`` reads a file without an error."""
    try:
        read_header(file, decode=decode)
    except UnreadableImageError:
        return False
    return True


def open_image(file: str | PathLike[str], size: tuple[int, int] | None = None) -> Image.Image:
    """
    Open and decode an image, and rotate it as its EXIF data say.

    Args:
        file (str): A path, or a URL that detectron2's PathManager knows.
        size (tuple[int, int]): Width and height in pixels that the image must have; None for any.

    Returns:
        Image: An image of PIL. Gray images of 16 bits have the mode "I;16" or a variant of it, from
        which ``image_to_array`` makes 8 bits.

    Raises:
        UnreadableImageError: If the file is missing, is not an image, or is damaged.
        InputError: If the image has another size, or pixels of 32 bits.
    """
    header, image = _decode(file)
    fault = None if size is None else find_size_fault(header, size)
    if fault is not None:
        raise InputError(
            f"The image {file} is {image.size} pixels large (width, height), but its annotations "
            f"are for {size}. {fault.value}",
            file=str(file),
        )
    if pixel_fault := _find_pixel_fault(image):
        raise InputError(f"The image {file} has {pixel_fault}", file=str(file))
    return image


def read_pixel_range(file: str | PathLike[str]) -> tuple[float, float]:
    """
    Return the lowest and highest pixel value of an image file with one channel.

    Raises:
        UnreadableImageError: If the file is missing, is not an image, or is damaged.
    """
    return pixel_range(_decode(file)[1])


def _decode(file: str | PathLike[str]) -> tuple[ImageHeader, Image.Image]:
    """Decode an image, and rotate it as its EXIF data say."""
    try:
        with PathManager.open(str(file), "rb") as opened:
            image = Image.open(opened)
            image.filename = str(file)  # as PIL sets it for a path
            image.load()  # first, because PIL itself then applies the orientation of TIFF
            return _header_of(image), _apply_exif_orientation(_as_16_bit(image))
    except Exception as error:
        raise _reading_error(file, error) from error


def _header_of(image: Image.Image) -> ImageHeader:
    """Return the header of an opened image."""
    try:
        # Unlike PIL's classes for PNG, this method does not decode the image to find EXIF data.
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # as in detectron2: an image with damaged EXIF data can be read
        orientation = 1
    is_known = is_integer(orientation) and 1 <= orientation <= 8
    mode = "I;16" if is_16_bit(image) else image.mode
    return ImageHeader(image.size, orientation if is_known else 1, mode)


def is_16_bit(image: Image.Image) -> bool:
    """
    Return whether an image is gray with 16 bits.

    PIL has read some 16-bit PNG and PGM files as 32-bit integers.
    """
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _as_16_bit(image: Image.Image) -> Image.Image:
    """Give a gray image of 16 bits a mode of 16 bits."""
    return image.convert("I;16") if image.mode == "I" and is_16_bit(image) else image


def find_unreadable_type(file: str | PathLike[str], error: BaseException | None) -> FileType | None:
    """
    Find out what a file is that PIL does not open.

    Args:
        file (str): The file.
        error (Exception): The exception that PIL raised.

    Returns:
        FileType | None: Its type; None if it is a damaged image or unknown.
    """
    if isinstance(error, Image.DecompressionBombError):
        return TOO_LARGE
    return find_file_type(file) if isinstance(error, UnidentifiedImageError) else None


def _reading_error(file: str | PathLike[str], error: Exception) -> UnreadableImageError:
    """Make the error about a file that cannot be read, which says what the file is instead."""
    kind = find_unreadable_type(file, error)
    if kind is not None:
        return UnreadableImageError(
            f"The image {file} is {kind.one}. {agree(kind.remedy, 1)}", file=str(file)
        )
    text = f"The image {file} cannot be read: {type(error).__name__}: {error}"
    return UnreadableImageError(text, file=str(file))


def _find_pixel_fault(image: Image.Image) -> str | None:
    """
    Describe why the pixels of an image cannot be used.

    Returns:
        str | None: The text, as it continues "the image has ..."; None if they can be used.
    """
    if image.mode not in ("I", "F"):
        return None
    low, high = pixel_range(image)
    kind = "integers" if image.mode == "I" else "floating-point numbers"
    return (
        f"pixels that are {kind} of 32 bits (PIL's mode {image.mode}), with values from {low:g} to "
        f"{high:g}. Which of them is white is unknown. Convert it to gray of 8 or 16 bits."
    )


def pixel_range(image: Image.Image) -> tuple[float, float]:
    """Return the lowest and highest pixel value of an image with one channel."""
    array = np.asarray(image)
    return array.min().item(), array.max().item()


def image_to_array(
    image: Image.Image, image_format: str, white_point: int = WHITE_POINT
) -> NDArray[Any]:
    """
    Convert an image to an array.

    Args:
        image (Image): The result of ``open_image``, or another image of PIL.
        image_format (str): One of detectron2's formats, such as "BGR" or "RGB".
        white_point (int): The value in gray images of 16 bits that becomes 255. Higher values
            become 255, too.

    Returns:
        array: (H, W, C) in uint8, or in float for the format "YUV-BT.601".

    Raises:
        InputError: If the image has pixels of 32 bits.
    """
    image = _as_16_bit(image)
    if fault := _find_pixel_fault(image):
        raise InputError(f"The image has {fault}")
    if is_16_bit(image):
        image = Image.fromarray(_to_8_bits(white_point)[np.asarray(image)])
    array: NDArray[Any] = convert_PIL_to_numpy(image, image_format)
    # PIL's memory is read-only, of which PyTorch warns. A single channel is never copied later.
    return array if array.flags.writeable or array.shape[2] > 1 else array.copy()


@cache
def _to_8_bits(white_point: int) -> NDArray[np.uint8]:
    """Return the 8-bit value of each 16-bit value: (65536,) uint8."""
    values = np.rint(np.arange(2**16) * (255 / white_point))
    return np.minimum(values, 255).astype(np.uint8)
