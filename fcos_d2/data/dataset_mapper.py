"""detectron2's dataset mapper, which names images that cannot be used and can keep crowds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import transform_instance_annotations
from detectron2.structures import Boxes

from ..arguments import FLAG, Arguments
from ..errors import InputError
from .images import open_image

__all__ = ["FCOSDatasetMapper"]


MAPPER_ARGUMENTS = Arguments("FCOS_TRAIN", keep_crowd_boxes=FLAG)


class FCOSDatasetMapper(DatasetMapper):
    """
    Map dataset dicts as DatasetMapper does, with errors that name the image.

    DatasetMapper drops annotations with "iscrowd", so that the objects of a crowd are trained as
    background. This one can keep their boxes, transformed and clipped as all boxes are.
    """

    @configurable
    def __init__(self, is_train: bool, *, keep_crowd_boxes: bool = False, **kwargs: Any) -> None:
        """
        Args:
            is_train (bool): for training; crowds are kept only then.
            keep_crowd_boxes (bool): put the boxes of crowds under "gt_ignore_boxes" (Boxes, maybe
                empty) into each dictionary.
            kwargs: those of DatasetMapper.
        """
        super().__init__(is_train, **kwargs)
        MAPPER_ARGUMENTS.check(locals())
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
            InputError: the image is missing, damaged, or of another size than its annotations say.
                Any other exception, such as one of an augmentation, has a note that names the
                image.
        """
        try:
            return super().__call__(dataset_dict)
        except Exception as error:
            # DatasetMapper reads the image in the same call. Whether it is at fault is only looked
            # at now, so that a good one is decoded once.
            try:
                open_image(dataset_dict["file_name"], _annotated_size(dataset_dict))
            except InputError as fault:
                raise fault from error
            if hasattr(error, "add_note"):  # from Python 3.11
                error.add_note(f"It was raised for the image {dataset_dict['file_name']}.")
            raise

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


def _annotated_size(dataset_dict: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height in pixels, where both are known."""
    if "width" in dataset_dict and "height" in dataset_dict:
        return dataset_dict["width"], dataset_dict["height"]
    return None
