"""What FCOS adds to detectron2's two-stage detectors: checks of their config, and loss terms."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    GeneralizedRCNN,
    ProposalNetwork,
)
from detectron2.utils.events import EventStorage
from fvcore.common.registry import Registry
from torch import nn

from ..arguments import check_registered, get
from ..errors import Collector, InputError
from .losses import LossTerm, LossTerms
from .losses.terms import merge_terms

__all__ = [
    "check_roi_heads",
    "compute_two_stage_loss_terms",
    "find_two_stage_faults",
    "has_roi_heads",
    "proposes",
]


def has_roi_heads(cfg: CfgNode) -> bool:
    """Return whether the meta-architecture of a config is detectron2's GeneralizedRCNN."""
    return _is_a(cfg, GeneralizedRCNN)


def proposes(cfg: CfgNode) -> bool:
    """Return whether the meta-architecture of a config has a proposal generator."""
    return _is_a(cfg, (GeneralizedRCNN, ProposalNetwork))


def _is_a(cfg: CfgNode, classes: type | tuple[type, ...]) -> bool:
    """Return whether the meta-architecture of a config is one of some classes."""
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY:  # which has a separate error
        return False
    meta_arch = META_ARCH_REGISTRY.get(name)
    return isinstance(meta_arch, type) and issubclass(meta_arch, classes)


def find_two_stage_faults(cfg: CfgNode) -> list[InputError]:
    """
    Find names that are not registered, and keys that two-stage detectors do not read.

    Args:
        cfg (CfgNode): A config with the keys of ``add_fcos_config``. If it is not of a two-stage
            detector or a proposal network, there is no fault.
    """
    if not proposes(cfg):
        return []
    collect, model = Collector(), cfg.MODEL
    if model.PROPOSAL_GENERATOR.NAME != "PrecomputedProposals":
        name = model.PROPOSAL_GENERATOR.NAME
        collect(
            check_registered, "MODEL.PROPOSAL_GENERATOR.NAME", name, PROPOSAL_GENERATOR_REGISTRY
        )
    if has_roi_heads(cfg):
        registries: dict[str, Registry] = {"ROI_HEADS": ROI_HEADS_REGISTRY}
        if model.ROI_BOX_HEAD.NAME:  # detectron2's default is no name, for Res5ROIHeads
            registries["ROI_BOX_HEAD"] = ROI_BOX_HEAD_REGISTRY
        if model.MASK_ON:
            registries["ROI_MASK_HEAD"] = ROI_MASK_HEAD_REGISTRY
        if model.KEYPOINT_ON:
            registries["ROI_KEYPOINT_HEAD"] = ROI_KEYPOINT_HEAD_REGISTRY
        for section, registry in registries.items():
            key = f"MODEL.{section}.NAME"
            collect(check_registered, key, get(cfg, key), registry)
    if model.FCOS.INFERENCE_DTYPE != "float32":
        key, value = "MODEL.FCOS.INFERENCE_DTYPE", model.FCOS.INFERENCE_DTYPE
        text = f"{key} = {value!r}: only the model FCOS reads it. Set it to 'float32'."
        collect.faults.append(InputError(text, key=key, value=value))
    return collect.faults


def check_roi_heads(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> None:
    """
    Check the values that the ROI heads of a config read and do not check.

    Args:
        cfg (CfgNode): The config.
        input_shape (dict[str, ShapeSpec]): The backbone's maps.

    Raises:
        InputError: If the backbone does not have a map of the ROI heads, or if the number of
            classes is -1.
    """
    if not has_roi_heads(cfg):
        return
    collect = Collector()
    key, names = "MODEL.ROI_HEADS.IN_FEATURES", list(cfg.MODEL.ROI_HEADS.IN_FEATURES)
    unknown = [name for name in names if name not in input_shape]
    if unknown or not names:
        text = f"{key} = {names} must be maps of the backbone, which has {list(input_shape)}."
        collect.faults.append(InputError(text, key=key, value=names))
    for key, meaning in _FROM_DATASET.items():
        if get(cfg, key) == -1:
            text = (
                f"{key} = -1 means {meaning} of DATASETS.TRAIN[0], which train_net.py sets. Set it "
                "before you build a model in your own program."
            )
            collect.faults.append(InputError(text, key=key, value=-1))
    collect.check()


# The keys whose value -1 stands for a number of the dataset.
_FROM_DATASET = {
    "MODEL.ROI_HEADS.NUM_CLASSES": "the number of classes",
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": "the number of keypoints",
}


def compute_two_stage_loss_terms(
    model: GeneralizedRCNN | ProposalNetwork, batched_inputs: Sequence[dict[str, Any]]
) -> LossTerms:
    """
    Compute the losses of annotated images as sums, before they are normalized.

    The losses of the ROI heads are means over the sampled proposals of a batch. They are weighted
    by the number of images, and the total "images" normalizes them.

    The model stays in its mode. In eval mode, no buffer and no statistic of the model changes.

    Args:
        model (GeneralizedRCNN | ProposalNetwork): A model with an FCOSProposalGenerator.
        batched_inputs (list[dict]): As for ``forward`` in training.
    """
    # ProposalNetwork has the same steps, but not as a method.
    images = GeneralizedRCNN.preprocess_image(model, batched_inputs)
    gt_instances = [x["instances"].to(model.device) for x in batched_inputs]
    features = model.backbone(images.tensor)
    proposals, terms = model.proposal_generator.compute_loss_terms(images, features, gt_instances)
    if not hasattr(model, "roi_heads"):
        return terms
    # The ROI heads log statistics of a training batch.
    with _computing_losses(model.roi_heads), EventStorage():
        _, losses = model.roi_heads(images, features, proposals, gt_instances)
    num_images = images.tensor.new_full((), len(batched_inputs), dtype=torch.float32)  # ()
    of_roi_heads = {
        name: LossTerm(loss.float() * num_images, "images") for name, loss in losses.items()
    }
    return merge_terms([terms, LossTerms(of_roi_heads, {"images": num_images})])


@contextmanager
def _computing_losses(roi_heads: nn.Module) -> Iterator[None]:
    """Let ROI heads compute losses in a block, in which batch norms keep their mode."""
    batch_norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    modes = {x: x.training for x in roi_heads.modules() if not isinstance(x, batch_norms)}
    try:
        for module in modes:
            module.training = True
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
