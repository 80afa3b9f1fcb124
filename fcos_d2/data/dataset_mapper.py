"""A dataset mapper that names images that cannot be used, and can keep crowds."""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import (
    check_image_size,
    read_image,
    transform_instance_annotations,
    transform_proposals,
)
from detectron2.data.transforms import AugInput, TransformList
from detectron2.structures import Boxes
from numpy.typing import NDArray

from ..arguments import FLAG, Arguments
from ..errors import InputError, count_words
from .images import (
    WHITE_POINT,
    WHITE_POINT_RULE,
    UnreadableImageError,
    image_to_array,
    open_image,
)

__all__ = ["FCOSDatasetMapper", "annotated_size"]

logger = logging.getLogger(__name__)

MAPPER_ARGUMENTS = Arguments(
    "FCOS_TRAIN",
    keep_crowd_boxes=FLAG,
    skip_unreadable_images=FLAG,
    white_point_16_bit=WHITE_POINT_RULE,
)


class FCOSDatasetMapper(DatasetMapper):
    """
    A DatasetMapper with errors that name the image.

    DatasetMapper drops annotations with "iscrowd", so the objects of a crowd are trained as
    background. This mapper can keep their boxes, which are transformed and clipped like all boxes.
    It can leave out images that cannot be read, and reads gray images of 16 bits, which
    DatasetMapper clips at 255. Objects without keypoints, of classes that have none, may be mixed
    with others: their keypoints are not labeled.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        keep_crowd_boxes: bool = False,
        skip_unreadable_images: bool = False,
        white_point_16_bit: int = WHITE_POINT,
        **kwargs: Any,
    ) -> None:
        """
        Create a mapper for training or testing.

        Args:
            is_train (bool): Map for training. Crowds are kept, and images are skipped, only in
                training.
            keep_crowd_boxes (bool): Add the boxes of crowds to each dictionary, as
                "gt_ignore_boxes" (Boxes, which may be empty).
            skip_unreadable_images (bool): Map an image that cannot be read to None, instead of an
                error. detectron2's data loader then takes another image.
            white_point_16_bit (int): The value in gray images of 16 bits that becomes 255.
            **kwargs: See DatasetMapper.
        """
        super().__init__(is_train, **kwargs)
        MAPPER_ARGUMENTS.check(locals())
        self.keep_crowd_boxes = keep_crowd_boxes
        self.white_point_16_bit = white_point_16_bit
        self.skip_unreadable_images = skip_unreadable_images and is_train
        self._skipped: set[str] = set()  # the files, in this process

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments from a config."""
        # Configs of other projects may not have FCOS_TRAIN.
        own = MAPPER_ARGUMENTS.read(cfg) if "FCOS_TRAIN" in cfg else {}
        if not is_train and cfg.MODEL.KEYPOINT_ON:
            # For the pairs that a flip swaps, DatasetMapper reads the metadata of DATASETS.TRAIN,
            # which an evaluation doesn't register. In testing it doesn't use them.
            cfg = cfg.clone()
            cfg.defrost()
            cfg.MODEL.KEYPOINT_ON = False
        return {**super().from_config(cfg, is_train), **own}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        """
        Map a dataset dict as DatasetMapper does.

        Args:
            dataset_dict (dict): An image and its annotations in detectron2's format.

        Returns:
            dict | None: The input dict of the model; None for an image that is skipped.

        Raises:
            InputError: If the image is missing or damaged, or has another size than in its
                annotations. Any other exception, for example from an augmentation, gets a note that
                names the image (from Python 3.11).
        """
        file = dataset_dict["file_name"]
        try:
            image = open_image(file, annotated_size(dataset_dict))
        except UnreadableImageError as error:
            if not self.skip_unreadable_images:
                raise _with_remedy(error, self.is_train) from error.__cause__
            self._report_skipped(file, error)
            return None
        array = image_to_array(image, self.image_format, self.white_point_16_bit)
        try:
            return self._map(copy.deepcopy(dataset_dict), array)
        except Exception as error:
            if hasattr(error, "add_note"):  # from Python 3.11
                error.add_note(f"It was raised for the image {file}.")
            raise

    def _report_skipped(self, file: str, error: InputError) -> None:
        """Count a skipped image, and log it if it is the 1st, 2nd, 4th, 8th, ... image."""
        if file in self._skipped:  # in an earlier epoch
            return
        self._skipped.add(file)
        count = len(self._skipped)
        if count & (count - 1) == 0:
            logger.warning(
                "%s left out so far by this process (FCOS_TRAIN.SKIP_UNREADABLE_IMAGES; in a "
                "LazyConfig skip_unreadable_images of the mapper). The last one: %s",
                count_words(count, "{image|images} that cannot be read {was|were}"),
                error.text,
            )

    def _map(self, dataset_dict: dict[str, Any], image: NDArray[Any]) -> dict[str, Any]:
        """
        Augment an image and its annotations, and convert them to tensors.

        These are the steps of DatasetMapper.__call__ (detectron2, Apache-2.0) after the reading of
        the image, which it doesn't allow to replace.

        Args:
            dataset_dict (dict): An image and its annotations, which are changed.
            image (array): The pixels (H, W, C).
        """
        check_image_size(dataset_dict, image)  # sets width and height if they are missing
        sem_seg_file = dataset_dict.pop("sem_seg_file_name", None)
        sem_seg = read_image(sem_seg_file, "L").squeeze(2) if sem_seg_file else None
        augmented = AugInput(image, sem_seg=sem_seg)
        transforms = self.augmentations(augmented)
        height, width = augmented.image.shape[:2]
        # The data loader passes tensors to other processes faster than arrays.
        pixels = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        dataset_dict["image"] = torch.as_tensor(pixels)
        if augmented.sem_seg is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype("long"))
        if self.proposal_topk is not None:
            transform_proposals(
                dataset_dict, (height, width), transforms, proposal_topk=self.proposal_topk
            )
        if not self.is_train:
            dataset_dict.pop("annotations", None)
        elif "annotations" in dataset_dict:
            self._transform_annotations(dataset_dict, transforms, (height, width))
        return dataset_dict

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
        if self.use_keypoint and self.keypoint_hflip_indices is not None:
            unlabeled = [0.0] * (3 * len(self.keypoint_hflip_indices))
            for annotation in dataset_dict["annotations"]:
                annotation["keypoints"] = annotation.get("keypoints") or unlabeled
        super()._transform_annotations(dataset_dict, transforms, image_shape)


def _with_remedy(error: UnreadableImageError, is_train: bool) -> UnreadableImageError:
    """Return the error about an image with what to do about it."""
    remedy = "`fcos-d2 check-dataset --decode` lists all such images."
    if is_train:
        remedy += (
            " FCOS_TRAIN.SKIP_UNREADABLE_IMAGES True (in a LazyConfig skip_unreadable_images of "
            "the mapper) leaves them out of training sets."
        )
    return UnreadableImageError(f"{error.text} {remedy}", file=error.file)


def annotated_size(dataset_dict: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return width and height in pixels; None if one is not known."""
    if "width" in dataset_dict and "height" in dataset_dict:
        return dataset_dict["width"], dataset_dict["height"]
    return None
