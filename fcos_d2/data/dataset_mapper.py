"""A dataset mapper that names images that cannot be used, and can keep crowds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import transform_instance_annotations
from detectron2.data.transforms import TransformList
from detectron2.structures import Boxes

from ..arguments import FLAG, Arguments
from ..errors import InputError
from .images import open_image

__all__ = ["FCOSDatasetMapper"]

MAPPER_ARGUMENTS = Arguments("FCOS_TRAIN", keep_crowd_boxes=FLAG)


class FCOSDatasetMapper(DatasetMapper):
    """
    A DatasetMapper with errors that name the image.

    DatasetMapper drops annotations with "iscrowd", so the objects of a crowd are trained as
    background. This mapper can keep their boxes, which are transformed and clipped like all boxes.
    """

    @configurable
    def __init__(self, is_train: bool, *, keep_crowd_boxes: bool = False, **kwargs: Any) -> None:
        """
        Create a mapper for training or testing.

        Args:
            is_train (bool): Map for training. Crowds are kept only in training.
            keep_crowd_boxes (bool): Add the boxes of crowds to each dictionary, as
                "gt_ignore_boxes" (Boxes, which may be empty).
            **kwargs: See DatasetMapper.
        """
        super().__init__(is_train, **kwargs)
        MAPPER_ARGUMENTS.check(locals())
        self.keep_crowd_boxes = keep_crowd_boxes

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments from a config."""
        # Configs of other projects may not have FCOS_TRAIN.
        keep = cfg.FCOS_TRAIN.KEEP_CROWD_BOXES if "FCOS_TRAIN" in cfg else False
        return {**super().from_config(cfg, is_train), "keep_crowd_boxes": keep}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        Map a dataset dict as DatasetMapper does.

        Args:
            dataset_dict (dict): An image and its annotations in detectron2's format.

        Raises:
            InputError: If the image is missing or damaged, or has another size than in its
                annotations. Any other exception, for example from an augmentation, gets a note that
                names the image (from Python 3.11).
        """
        try:
            return super().__call__(dataset_dict)
        except Exception as error:
            # Check only now whether the image caused the error, so that a good image is decoded
            # once.
            try:
                open_image(dataset_dict["file_name"], _annotated_size(dataset_dict))
            except InputError as fault:
                raise fault from error
            if hasattr(error, "add_note"):  # from Python 3.11
                error.add_note(f"It was raised for the image {dataset_dict['file_name']}.")
            raise

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: TransformList, image_shape: tuple[int, int]
    ) -> None:
        """Transform the annotations as DatasetMapper does, after adding "gt_ignore_boxes"."""
        if self.keep_crowd_boxes:
            crowds = [
                # A copy, because the transform changes it, and without the mask, to save time.
                {key: annotation[key] for key in ("bbox", "bbox_mode")}
                for annotation in dataset_dict["annotations"]
                if annotation.get("iscrowd", 0) != 0  # the condition of DatasetMapper
            ]
            for crowd in crowds:
                transform_instance_annotations(crowd, transforms, image_shape)
            xyxy = np.array([crowd["bbox"] for crowd in crowds]).reshape(-1, 4)
            boxes = Boxes(torch.from_numpy(xyxy).float())
            dataset_dict["gt_ignore_boxes"] = boxes[boxes.nonempty()]
        super()._transform_annotations(dataset_dict, transforms, image_shape)


def _annotated_size(dataset_dict: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return width and height in pixels; None if one is not known."""
    if "width" in dataset_dict and "height" in dataset_dict:
        return dataset_dict["width"], dataset_dict["height"]
    return None
