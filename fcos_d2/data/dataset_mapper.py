"""detectron2's dataset mapper, which names images that cannot be used and can keep crowds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import (
    check_image_size,
    read_image,
    transform_instance_annotations,
)
from detectron2.structures import Boxes

from ..errors import InputError

__all__ = ["FCOSDatasetMapper", "problem_of_image"]


class FCOSDatasetMapper(DatasetMapper):
    """
    In place of DatasetMapper, whose errors do not always have the file's name.

    DatasetMapper drops annotations with "iscrowd", so that the objects of a crowd are taught to be
    background. This one can keep their boxes, transformed and clipped as all boxes are.
    """

    @configurable
    def __init__(self, is_train: bool, *, keep_crowd_boxes: bool = False, **kwargs: Any) -> None:
        """
        Args:
            is_train (bool): for training; crowds are kept only then.
            keep_crowd_boxes (bool): put the boxes of crowds under "gt_ignore_boxes" (Boxes, maybe
                none) into each dictionary.
            kwargs: those of DatasetMapper.
        """
        super().__init__(is_train, **kwargs)
        self.keep_crowd_boxes = keep_crowd_boxes

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        # Projects of others may have no FCOS_TRAIN.
        keep = cfg.FCOS_TRAIN.KEEP_CROWD_BOXES if "FCOS_TRAIN" in cfg else False
        return {**super().from_config(cfg, is_train), "keep_crowd_boxes": keep}

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
            text = problem_of_image(dataset_dict, self.image_format)
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

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: Any, image_shape: tuple[int, int]
    ) -> None:
        if self.keep_crowd_boxes:
            crowds = [
                # A copy, and without the mask, which takes time to transform.
                {key: annotation[key] for key in ("bbox", "bbox_mode")}
                for annotation in dataset_dict["annotations"]
                if annotation.get("iscrowd", 0) != 0  # as DatasetMapper drops them
            ]
            for crowd in crowds:
                transform_instance_annotations(crowd, transforms, image_shape)
            xyxy = np.array([crowd["bbox"] for crowd in crowds]).reshape(-1, 4)
            boxes = Boxes(torch.from_numpy(xyxy).float())
            dataset_dict["gt_ignore_boxes"] = boxes[boxes.nonempty()]
        super()._transform_annotations(dataset_dict, transforms, image_shape)


def problem_of_image(dataset_dict: Mapping[str, Any], image_format: str) -> str | None:
    """
    Read an image, and only that.

    Args:
        dataset_dict (dict): "file_name", and "width" and "height" in pixels where they are known.
        image_format (str): one of detectron2's.

    Returns:
        str: what is wrong; None if the file is there, whole and of the right size.
    """
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
