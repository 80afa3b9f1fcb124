"""Configs of detectron2's two-stage detectors, and checks that detectron2 does not make."""

from collections.abc import Mapping

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
from fvcore.common.registry import Registry

from ..arguments import check_registered, get
from ..errors import Collector, InputError, listed
from ..registration import is_class_of

__all__ = [
    "check_roi_heads",
    "find_two_stage_faults",
    "has_roi_heads",
    "proposes",
]


def has_roi_heads(cfg: CfgNode) -> bool:
    """Return whether the model of a config is detectron2's GeneralizedRCNN, or derived from it."""
    return is_class_of(_meta_arch(cfg), GeneralizedRCNN)


def proposes(cfg: CfgNode) -> bool:
    """Return whether the model of a config is such a detector or detectron2's ProposalNetwork."""
    return has_roi_heads(cfg) or is_class_of(_meta_arch(cfg), ProposalNetwork)


def _meta_arch(cfg: CfgNode) -> object:
    """Return the meta-architecture of a config; None if it is not registered."""
    name = cfg.MODEL.META_ARCHITECTURE
    return META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None


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
            classes or of keypoints is -1.
    """
    if not has_roi_heads(cfg):
        return
    collect = Collector()
    key, names = "MODEL.ROI_HEADS.IN_FEATURES", list(cfg.MODEL.ROI_HEADS.IN_FEATURES)
    unknown = [name for name in names if name not in input_shape]
    if unknown or not names:
        what = f"has no {listed(unknown)}; it has {list(input_shape)}" if unknown else "is needed"
        text = f"{key} = {names}: the backbone {what}."
        collect.faults.append(InputError(text, key=key, value=names))
    from_dataset = {"MODEL.ROI_HEADS.NUM_CLASSES": "classes"}
    if cfg.MODEL.KEYPOINT_ON:
        from_dataset["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"] = "keypoints"
    for key, what in from_dataset.items():
        if get(cfg, key) == -1:
            text = (
                f"{key} = -1 means the number of {what} of DATASETS.TRAIN[0], which train_net.py "
                "sets. Set it before you build a model in your own program."
            )
            collect.faults.append(InputError(text, key=key, value=-1))
    collect.check()
