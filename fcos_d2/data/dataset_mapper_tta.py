"""The views of an image for test-time augmentation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import DatasetMapperTTA
from torch import Tensor

from ..errors import InputError
from .dataset_mapper import MAPPER_ARGUMENTS, annotated_size
from .images import WHITE_POINT, image_to_array, open_image

__all__ = ["FCOSDatasetMapperTTA"]


class FCOSDatasetMapperTTA(DatasetMapperTTA):
    """
    A DatasetMapperTTA that also reads the image, as ``dataset_mapper.FCOSDatasetMapper`` does.

    The views of each scale follow each other: the resized image and, with ``flip``, its mirror
    image.
    """

    @configurable
    def __init__(
        self,
        min_sizes: Sequence[int],
        max_size: int,
        flip: bool,
        *,
        image_format: str = "BGR",
        white_point_16_bit: int = WHITE_POINT,
    ) -> None:
        """
        Store the settings.

        Args:
            min_sizes (list[int]): The scales: lengths of the shorter side in pixels; 0 keeps the
                size of the image.
            max_size (int): Maximum length of the longer side in pixels.
            flip (bool): Make a mirror image at each scale, too.
            image_format (str): Format of the images that are read, such as "BGR".
            white_point_16_bit (int): The value in gray images of 16 bits that becomes 255.
        """
        super().__init__(min_sizes=min_sizes, max_size=max_size, flip=flip)
        self.image_format = image_format
        self.white_point_16_bit = white_point_16_bit

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments from a config."""
        # Configs of other projects may not have FCOS_TRAIN.
        own = MAPPER_ARGUMENTS.read(cfg) if "FCOS_TRAIN" in cfg else {}
        white_point = own.get("white_point_16_bit", WHITE_POINT)
        return {
            **super().from_config(cfg),
            "image_format": cfg.INPUT.FORMAT,
            "white_point_16_bit": white_point,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> list[dict[str, Any]]:
        """
        Make the views of an image.

        Args:
            dataset_dict (dict): An input dict of a model. Without "image", the file "file_name" is
                read. Without "height" and "width", the original image has the size of "image".

        Returns:
            list[dict]: A copy of the dict for each view, with its "image" and its "transforms",
            which map pixels of the original image to pixels of the view.

        Raises:
            InputError: If the file cannot be used, or the image is so thin that a side of a view
                would be 0 pixels.
        """
        image = dataset_dict["image"] if "image" in dataset_dict else self._read(dataset_dict)
        height, width = image.shape[1:]
        self._check_not_too_thin(height, width, dataset_dict.get("file_name"))
        sizes = {"height": height, "width": width}
        return super().__call__({**sizes, **dataset_dict, "image": image})

    def _read(self, dataset_dict: dict[str, Any]) -> Tensor:
        """Read the image of a dataset dict as (C, H, W)."""
        image = open_image(dataset_dict["file_name"], annotated_size(dataset_dict))
        array = image_to_array(image, self.image_format, self.white_point_16_bit)
        return torch.as_tensor(np.ascontiguousarray(array.transpose(2, 0, 1)))

    def _check_not_too_thin(self, height: int, width: int, file: str | None) -> None:
        """Check that both sides of each view have at least one pixel."""
        for size in filter(None, self.min_sizes):  # 0 resizes nothing
            if 0 in ResizeShortestEdge.get_output_shape(height, width, size, self.max_size):
                raise InputError(
                    f"{'An image' if file is None else f'The image {file}'} of {width} x {height} "
                    f"pixels is too thin: resized to TEST.AUG.MAX_SIZE = {self.max_size}, its "
                    "shorter side has 0 pixels.",
                    file=file,
                )
