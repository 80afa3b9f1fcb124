"""The number of classes K of a config, and the check that a head has this number."""

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from ..arguments import Arguments, get, integer
from ..errors import InputError, nearest
from .two_stage import has_roi_heads

__all__ = [
    "NUM_CLASSES_ARGUMENTS",
    "ROI_NUM_CLASSES_ARGUMENTS",
    "check_num_classes",
    "num_classes_key",
    "resolve_num_classes",
]

_NUM_CLASSES = integer(at_least=1, or_exactly=-1)
NUM_CLASSES_ARGUMENTS = Arguments("MODEL.FCOS", num_classes=_NUM_CLASSES)
ROI_NUM_CLASSES_ARGUMENTS = Arguments("MODEL.ROI_HEADS", num_classes=_NUM_CLASSES)


def num_classes_key(cfg: CfgNode) -> str:
    """Return the config key of the number of classes of the detections."""
    arguments = ROI_NUM_CLASSES_ARGUMENTS if has_roi_heads(cfg) else NUM_CLASSES_ARGUMENTS
    return arguments.keys["num_classes"]


def resolve_num_classes(cfg: CfgNode, eval_only: bool = False) -> int:
    """
    Return the number of classes of a config.

    If ``MODEL.FCOS.NUM_CLASSES``, or ``MODEL.ROI_HEADS.NUM_CLASSES`` in a two-stage detector, is
    -1, this is the number of classes of DATASETS.TRAIN[0].

    Args:
        cfg (CfgNode): The config.
        eval_only (bool): Use FCOS_TRAIN.CLASS_NAMES, the classes of the trained detector, or if
            they are unknown, those of DATASETS.TEST[0]. In an evaluation, the training set may not
            be registered.

    Raises:
        InputError: If the number is -1, and the classes of the dataset are not known.
    """
    key = num_classes_key(cfg)
    if get(cfg, key) != -1:
        return get(cfg, key)
    trained_classes = cfg.get("FCOS_TRAIN", {}).get("CLASS_NAMES", ()) if eval_only else ()
    if trained_classes:
        return len(trained_classes)
    split = "TEST" if eval_only else "TRAIN"
    meaning = f"{key} = -1 means the number of classes of DATASETS.{split}[0]"
    if not cfg.DATASETS[split]:
        raise InputError(
            f"{meaning}, but DATASETS.{split} is empty. Set {key} (foreground classes, "
            "background not counted).",
            key=key,
            value=-1,
        )
    name = cfg.DATASETS[split][0]
    if name not in DatasetCatalog:
        raise InputError(
            f"{meaning}, but the dataset {name!r} of DATASETS.{split} is not registered. "
            f"{nearest(name, DatasetCatalog)} Register it before the model is built, or set {key}.",
            key=key,
            value=-1,
        )
    metadata = MetadataCatalog.get(name)
    if not hasattr(metadata, "thing_classes"):
        # detectron2's COCO loader sets the classes when it reads the annotation file.
        DatasetCatalog.get(name)
    classes = getattr(metadata, "thing_classes", [])
    if not classes:
        raise InputError(
            f"{meaning}, but the metadata of {name!r} has no thing_classes. Set them "
            f"(MetadataCatalog.get({name!r}).thing_classes = [...]), or {key}.",
            key=key,
            value=-1,
        )
    return len(classes)


def check_num_classes(head: nn.Module, num_classes: int) -> None:
    """
    Check that a head, which is built separately, has the number of classes of the model.

    Args:
        head (nn.Module): The head network.
        num_classes (int): K of the model.

    Raises:
        InputError: If the head has another number of classes.
    """
    head_num_classes = getattr(head, "num_classes", num_classes)
    if head_num_classes != num_classes:
        raise InputError(
            f"The head's num_classes is {head_num_classes}, but the model's is {num_classes}. "
            "Build both with the same number.",
            key="num_classes",
            value=num_classes,
        )
