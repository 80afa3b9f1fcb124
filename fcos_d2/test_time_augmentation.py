"""
Test-time augmentation: an image is detected at several scales and mirrored, and the results joined.

P = candidates, V = views of an image, D = detections of an image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.structures import Boxes, Instances
from fvcore.transforms.transform import Transform
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .arguments import is_list, raise_faults
from .data.dataset_mapper_tta import FCOSDatasetMapperTTA
from .errors import InputError
from .modeling import FCOS, Candidates
from .modeling.config_checks import TTA_ARGUMENTS
from .registration import is_class_of

__all__ = ["FCOSWithTTA", "build_tta_model", "find_tta_faults"]

Views = list[dict[str, Any]]


class FCOSWithTTA(nn.Module):
    """
    An FCOS with test-time augmentation, called like the FCOS itself.

    It has the interface of detectron2's GeneralizedRCNNWithTTA. The candidates of all views of an
    image are mapped back to the original image and joined before NMS, which is applied once.
    """

    @configurable
    def __init__(
        self,
        *,
        model: nn.Module,
        tta_mapper: Callable[[dict[str, Any]], Views],
        batch_size: int = 3,
        tta_size_ranges: Sequence[tuple[float, float]] = (),
    ) -> None:
        """
        Wrap a model. ``FCOSWithTTA(cfg, model)`` takes the other arguments from a config.

        Args:
            model (nn.Module): An FCOS, or one in DistributedDataParallel.
            tta_mapper (Callable): Makes the views of an image; see
                ``data.dataset_mapper_tta.FCOSDatasetMapperTTA``, its default with a config.
            batch_size (int): Maximum number of views in a batch. The views of a batch have the same
                size, so that none is padded to the size of another: padding changes the statistics
                of GroupNorm.
            tta_size_ranges (list[tuple[float, float]]): For each scale, the lowest and highest size
                of boxes that are kept: the square root of the area, in pixels of the original
                image. -1 as the highest size is no limit, and without ranges there are no limits.
                Each scale must have the same number of views, which follow each other.

        Raises:
            InputError: If a value is out of its range, or the mapper has another number of scales.
        """
        super().__init__()
        TTA_ARGUMENTS.check(locals())
        scales = getattr(tta_mapper, "min_sizes", tta_size_ranges)
        raise_faults([_find_count_fault("tta_size_ranges", tta_size_ranges, scales)])
        model = _unwrap(model)
        assert isinstance(model, FCOS), type(model)
        self.model = model
        self.tta_mapper = tta_mapper
        self.batch_size = batch_size
        self.tta_size_ranges = tta_size_ranges
        self.training = model.training  # so that an evaluation restores the mode of the model

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        tta_mapper: Callable[[dict[str, Any]], Views] | None = None,
        batch_size: int = 3,
    ) -> dict[str, Any]:
        """Return the constructor's arguments from a config."""
        return {
            "model": model,
            "tta_mapper": FCOSDatasetMapperTTA(cfg) if tta_mapper is None else tta_mapper,
            "batch_size": batch_size,
            "tta_size_ranges": cfg.MODEL.FCOS.TTA_SIZE_RANGES,
        }

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """
        Compute the detections of images.

        Args:
            batched_inputs (list[dict]): As for the model in inference, but each image may also be
                given by its "file_name". A larger image than the views is better than one that a
                dataset mapper has already resized.

        Returns:
            list[dict[str, Instances]]: {"instances": Instances} for each image, in pixels of the
            original image, by descending score. Values of other outputs of the head are those of
            the view in which the object was found.
        """
        assert not self.model.training, "test-time augmentation is for inference"
        return [{"instances": self._detect(x)} for x in batched_inputs]

    def _detect(self, image_input: dict[str, Any]) -> Instances:
        """Compute the detections of one image."""
        views = self.tta_mapper(image_input)
        image_size = (views[0]["height"], views[0]["width"])
        transforms = [view.pop("transforms") for view in views]
        candidates = [
            _map_to_original(found, transform)
            for found, transform in zip(self._find_candidates(views), transforms, strict=True)
        ]
        if self.tta_size_ranges:
            candidates = _limit_sizes(candidates, self.tta_size_ranges)
        (detections,) = self.model.postprocessor.suppress(Candidates.cat(candidates), [image_size])
        return detections.to_instances(image_size)

    def _find_candidates(self, views: Views) -> list[Candidates]:
        """Find the candidates of each view, whose boxes are clipped to the view."""
        candidates = []
        for _, neighbors in groupby(views, key=lambda view: view["image"].shape):
            same_size = list(neighbors)
            for start in range(0, len(same_size), self.batch_size):
                batch = same_size[start : start + self.batch_size]
                found, sizes = self.model.find_candidates(batch)
                for of_view, size in zip(found.split_images(len(batch)), sizes, strict=True):
                    boxes = Boxes(of_view.boxes.clone())
                    boxes.clip(size)
                    candidates.append(replace(of_view, boxes=boxes.tensor))
        return candidates


def _map_to_original(candidates: Candidates, transform: Transform) -> Candidates:
    """
    Map the boxes of a view back to the original image.

    Args:
        candidates (Candidates): P candidates of one view.
        transform (Transform): Maps pixels of the original image to pixels of the view.

    Returns:
        Candidates: The P candidates, as those of the only image of a batch.
    """
    boxes = transform.inverse().apply_box(candidates.boxes.cpu().numpy())  # (P, 4)
    return replace(
        candidates,
        image_idxs=torch.zeros_like(candidates.image_idxs),
        boxes=torch.as_tensor(boxes).to(candidates.boxes),
    )


def _limit_sizes(
    candidates: Sequence[Candidates], size_ranges: Sequence[tuple[float, float]]
) -> list[Candidates]:
    """
    Keep the candidates of each view whose boxes have a size in the range of its scale.

    Args:
        candidates (list[Candidates]): Candidates of V views, in pixels of the original image.
        size_ranges (list[tuple[float, float]]): See ``FCOSWithTTA``.

    Raises:
        InputError: If the views cannot be shared evenly by the ranges.
    """
    views_per_scale, rest = divmod(len(candidates), len(size_ranges))
    if rest or not views_per_scale:
        raise InputError(
            f"tta_size_ranges has {len(size_ranges)} ranges, but {len(candidates)} views of an "
            "image cannot be shared evenly by them.",
            key="tta_size_ranges",
            value=size_ranges,
        )
    return [
        found[_is_in_size_range(found.boxes, *size_ranges[view // views_per_scale])]
        for view, found in enumerate(candidates)
    ]


def _is_in_size_range(boxes: Tensor, lowest: float, highest: float) -> Tensor:
    """Return whether the size of each of (P, 4) boxes is in a range, as (P,) bool."""
    sizes = Boxes(boxes).area().sqrt()  # (P,)
    return (sizes >= lowest) & (sizes <= (math.inf if highest == -1 else highest))


def build_tta_model(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """
    Wrap a model for test-time augmentation with the settings in TEST.AUG.

    Args:
        cfg (CfgNode): The config of the model.
        model (nn.Module): An FCOS or a GeneralizedRCNN, or one in DistributedDataParallel.

    Returns:
        nn.Module: An FCOSWithTTA, or detectron2's GeneralizedRCNNWithTTA.

    Raises:
        InputError: If the model or its config has no test-time augmentation.
    """
    model = _unwrap(model)
    raise_faults([_find_model_faults(cfg, type(model))])
    if isinstance(model, FCOS):
        return FCOSWithTTA(cfg, model)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = model.get_submodule("roi_heads").num_classes
    wrapped = GeneralizedRCNNWithTTA(cfg, model, tta_mapper=FCOSDatasetMapperTTA(cfg))
    wrapped.training = model.training  # so that an evaluation restores the mode of the model
    return wrapped


def find_tta_faults(cfg: CfgNode) -> list[InputError]:
    """
    Find the reasons for which TEST.AUG.ENABLED cannot be True in a config.

    Args:
        cfg (CfgNode): The config.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if cfg.TEST.AUG.ENABLED is not True or name not in META_ARCH_REGISTRY:  # has a separate error
        return []
    return _find_model_faults(cfg, META_ARCH_REGISTRY.get(name))


def _find_model_faults(cfg: CfgNode, model_class: object) -> list[InputError]:
    """Find the reasons for which a class of models cannot have test-time augmentation."""
    if is_class_of(model_class, FCOS):
        return _find_fcos_faults(cfg, model_class)
    if is_class_of(model_class, GeneralizedRCNN):
        return _find_rcnn_faults(cfg)
    name = getattr(model_class, "__name__", model_class)
    return [_fault(f"the model must be FCOS or GeneralizedRCNN, but it is {name}.")]


def _find_fcos_faults(cfg: CfgNode, model_class: type[FCOS]) -> list[InputError]:
    """Find the reasons for which FCOS, or a subclass, cannot have test-time augmentation."""
    ranges, min_sizes = cfg.MODEL.FCOS.TTA_SIZE_RANGES, cfg.TEST.AUG.MIN_SIZES
    faults = _find_count_fault(TTA_ARGUMENTS.keys["tta_size_ranges"], ranges, min_sizes)
    own_detections = model_class.forward_inference is not FCOS.forward_inference
    if own_detections and model_class.find_candidates is FCOS.find_candidates:
        text = (
            f"{model_class.__name__} replaces forward_inference, but not find_candidates, from "
            "which the detections are made. Replace it too."
        )
        faults.append(_fault(text))
    return faults


def _find_rcnn_faults(cfg: CfgNode) -> list[InputError]:
    """Find the reasons for which a GeneralizedRCNN cannot have test-time augmentation."""
    faults = [
        _fault(f"detectron2 has none for models with MODEL.{name} = True.")
        for name in ("KEYPOINT_ON", "LOAD_PROPOSALS")
        if cfg.MODEL[name]
    ]
    key, ranges = TTA_ARGUMENTS.keys["tta_size_ranges"], cfg.MODEL.FCOS.TTA_SIZE_RANGES
    if ranges:
        text = f"{key} = {ranges} has no effect on GeneralizedRCNN, only on FCOS. Set it to []."
        faults.append(InputError(text, key=key, value=ranges))
    return faults


def _fault(reason: str) -> InputError:
    """Make the error that a model cannot have test-time augmentation."""
    key = "TEST.AUG.ENABLED"
    text = f"{key} = True (test-time augmentation): {reason} Set {key} to False."
    return InputError(text, key=key, value=True)


def _find_count_fault(key: str, ranges: Any, scales: Any) -> list[InputError]:
    """Find a number of size ranges other than that of the scales; 0 ranges fit any number."""
    if not (is_list(ranges) and is_list(scales)):  # each of them has a separate error
        return []
    if not ranges or len(ranges) == len(scales):
        return []
    text = (
        f"{key} = {ranges} has {len(ranges)} ranges, but there are {len(scales)} scales in "
        f"TEST.AUG.MIN_SIZES = {list(scales)}. It needs one range for each scale, or none."
    )
    return [InputError(text, key=key, value=ranges)]


def _unwrap(model: nn.Module) -> nn.Module:
    """Return the model in a DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model
