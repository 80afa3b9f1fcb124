"""Preparation of images for a detector: channels, type and size."""

import logging
import os
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from detectron2.data import transforms as T
from numpy.typing import NDArray
from PIL import Image

from .data.images import image_to_array, is_16_bit, open_image, pixel_range
from .errors import InputError

__all__ = ["AnyImage", "ImagePreparation"]

logger = logging.getLogger(__name__)

AnyImage: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]


@dataclass
class ImagePreparation:
    """
    The conversion of images to inputs of a model, as in detectron2's evaluation.

    Attributes:
        format (str): Order of the channels, INPUT.FORMAT.
        num_channels (int): Number of channels.
        white_point (int): FCOS_TRAIN.WHITE_POINT_16_BIT.
        min_size (int): The shorter side is resized to this size; 0 resizes nothing.
        max_size (int): Maximum size of the longer side.
        fit_size (tuple[int, int] | None): Height and width that the image must fit into, for
            models of a fixed input size. If it is given, the image is resized to the largest size
            that fits, and ``min_size`` and ``max_size`` are not used.
    """

    format: str
    num_channels: int
    white_point: int
    min_size: int
    max_size: int
    fit_size: tuple[int, int] | None = None
    _has_warned: bool = field(default=False, init=False)  # of 16 bits

    def __call__(self, image: AnyImage) -> dict[str, Any]:
        """
        Make the input dict of a model.

        Args:
            image (AnyImage): A path; an image of PIL; or an array (H, W, C) in uint8 with the
                channels of ``format``.

        Returns:
            dict: "image", the resized image (C, H', W') uint8; "height" and "width", the original
            size.

        Raises:
            InputError: If the file is not an image, the array has another shape or type, or the
                image is so thin that a side is 0 pixels after resizing.
        """
        array = self._to_array(image)
        height, width = array.shape[:2]
        resized = self._resize(array)
        tensor = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        return {"image": tensor, "height": height, "width": width}

    def _to_array(self, image: AnyImage) -> NDArray[np.uint8]:
        """Convert an image to an array (H, W, C) with the channels of ``format``."""
        if isinstance(image, (str, os.PathLike)):
            image = open_image(image)
        if isinstance(image, Image.Image):
            self._warn_of_16_bits(image)
            image = image_to_array(image, self.format, self.white_point)
        elif not isinstance(image, np.ndarray):
            raise InputError(f"An image must be a path, a PIL image or an array, not {image!r}.")
        elif image.dtype != np.uint8 or image.ndim != 3 or not image.size:
            raise InputError(
                f"An image array must be (H, W, C) of uint8, not {image.shape} of {image.dtype}."
            )
        if image.shape[2] != self.num_channels:
            raise InputError(
                f"An image array must have the {self.num_channels} channels of INPUT.FORMAT = "
                f"{self.format!r}, but has {image.shape[2]}."
            )
        return image

    def _resize(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an array (H, W, C)."""
        height, width = array.shape[:2]
        if self.fit_size is not None:
            scale = min(self.fit_size[0] / height, self.fit_size[1] / width)
            new_size = [max(1, round(side * scale)) for side in (height, width)]
            return T.ResizeTransform(height, width, *new_size).apply_image(array)
        resize = T.ResizeShortestEdge([self.min_size] * 2, self.max_size)
        transform = resize.get_transform(array)
        if not (getattr(transform, "new_h", height) and getattr(transform, "new_w", width)):
            raise InputError(
                f"An image of {width} x {height} pixels is too thin: resized to "
                f"INPUT.MAX_SIZE_TEST = {self.max_size}, its shorter side has 0 pixels."
            )
        return transform.apply_image(array)

    def _warn_of_16_bits(self, image: Image.Image) -> None:
        """Log once how the first gray image of 16 bits is read."""
        if self._has_warned or not is_16_bit(image):
            return
        self._has_warned = True
        low, high = pixel_range(image)
        logger.warning(
            "%s has gray pixels of 16 bits, with values from %d to %d. %d becomes 255 "
            "(FCOS_TRAIN.WHITE_POINT_16_BIT). This must be the value of the training, which is in "
            "the config.yaml that it wrote.",
            getattr(image, "filename", "") or "An image",
            low,
            high,
            self.white_point,
        )
