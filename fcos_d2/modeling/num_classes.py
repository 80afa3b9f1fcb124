"""The number of classes: of the config, or of its dataset; and of the head."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from ..arguments import Arguments, integer
from ..errors import InputError

__all__ = ["NUM_CLASSES_ARGUMENTS", "check_num_classes", "resolve_num_classes"]

NUM_CLASSES_ARGUMENTS = Arguments("MODEL.FCOS", num_classes=integer(at_least=1, or_exactly=-1))


def resolve_num_classes(cfg: CfgNode, eval_only: bool = False) -> int:
    """
    Get ``MODEL.FCOS.NUM_CLASSES``, or if that is -1 the number of classes of DATASETS.TRAIN[0] (for
    an evaluation: of DATASETS.TEST[0], which has the same where the detector fits it).

    Raises:
        InputError: neither is known.
    """
    if cfg.MODEL.FCOS.NUM_CLASSES != -1:
        return cfg.MODEL.FCOS.NUM_CLASSES
    split = "TEST" if eval_only else "TRAIN"
    key = f"MODEL.FCOS.NUM_CLASSES = -1 means: as many as DATASETS.{split}[0] has"
    if not cfg.DATASETS[split]:
        raise InputError(
            f"{key}, but DATASETS.{split} is empty. Set MODEL.FCOS.NUM_CLASSES (foreground "
            "classes, background not counted)."
        )
    name = cfg.DATASETS[split][0]
    if name not in DatasetCatalog.list():
        raise InputError(
            f"{key}, but the dataset {name!r} of DATASETS.{split} is not registered. Register it "
            "before the model is built, or set MODEL.FCOS.NUM_CLASSES."
        )
    metadata = MetadataCatalog.get(name)
    if not hasattr(metadata, "thing_classes"):
        # detectron2's COCO loader learns the classes from the file.
        DatasetCatalog.get(name)
    classes = getattr(metadata, "thing_classes", [])
    if not classes:
        raise InputError(
            f"{key}, but the metadata of {name!r} has no thing_classes. Set them "
            f"(MetadataCatalog.get({name!r}).thing_classes = [...]), or MODEL.FCOS.NUM_CLASSES."
        )
    return len(classes)


def check_num_classes(head: nn.Module, num_classes: int) -> None:
    """
    Check that a head, which was built apart, predicts the classes of the model.

    Raises:
        InputError: it predicts another number of classes.
    """
    of_head: Any = getattr(head, "num_classes", num_classes)
    if of_head != num_classes:
        raise InputError(
            f"The head's num_classes is {of_head}, the model's is {num_classes}: build both with "
            "the same."
        )
