"""detectron2's dataset mapper, which tells of each image that cannot be used which one it is."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import check_image_size, read_image

from ..errors import InputError

__all__ = ["FCOSDatasetMapper"]


class FCOSDatasetMapper(DatasetMapper):
    """In place of DatasetMapper, whose errors do not always have the file's name."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        See DatasetMapper.

        Raises:
            InputError: an image that is missing, damaged, or of another size than its annotations
                say; or settings of INPUT, or annotations, that cannot be applied to it.
        """
        try:
            return super().__call__(dataset_dict)
        # A damaged file can make the readers raise anything.
        except Exception as error:
            text = _problem_of_image(dataset_dict, self.image_format)
            image = f"{dataset_dict.get('file_name')} (id {dataset_dict.get('image_id')})"
            if text is not None:
                raise InputError(
                    f"The image {image} cannot be used: {text} Mend or replace the file, "
                    "or take it out of the annotations."
                ) from error
            raise InputError(
                f"The image {image} is fine by itself, but the settings INPUT.* (sizes, crop, "
                "augmentation) or its annotations could not be applied to it: "
                f"{type(error).__name__}: {error}"
            ) from error


def _problem_of_image(dataset_dict: Mapping[str, Any], image_format: str) -> str | None:
    """Read the file again, and only that; None if it is there, whole and of the right size."""
    image = None
    try:
        image = read_image(dataset_dict["file_name"], format=image_format)
        check_image_size(dict(dataset_dict), image)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return text if image is None else text + _hint_of_rotation(dataset_dict, image)
    return None


def _hint_of_rotation(dataset_dict: Mapping[str, Any], image: np.ndarray) -> str:
    if image.shape[:2] != (dataset_dict.get("width"), dataset_dict.get("height")):
        return ""
    return (
        " The two sides are swapped: the file may carry an EXIF rotation, which detectron2 applies "
        "when it reads. Then save the image without it, and annotate what it shows."
    )
