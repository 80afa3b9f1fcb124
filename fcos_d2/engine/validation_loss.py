"""The losses on the test data, computed during training."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.data.detection_utils import build_augmentation
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from torch import nn

from ..data.dataset_mapper import FCOSDatasetMapper
from ..errors import InputError
from ..modeling import FCOS, FCOSDenseHead, LossTerms
from .random_state import preserve_random_state

__all__ = [
    "check_can_validate",
    "check_model_can_validate",
    "compute_losses_of_dataset",
    "compute_validation_losses",
    "known_losses",
]


def check_can_validate(cfg: CfgNode) -> None:
    """
    Check that FCOS_TRAIN.VALIDATION_LOSS can be computed.

    Raises:
        InputError: If DATASETS.TEST is empty; see also ``check_model_can_validate``.
    """
    key = "FCOS_TRAIN.VALIDATION_LOSS"
    if not cfg.DATASETS.TEST:
        text = f"{key} = True needs a dataset in DATASETS.TEST, which is empty."
        raise InputError(text, key=key, value=True)
    if cfg.MODEL.META_ARCHITECTURE in META_ARCH_REGISTRY:  # another name has a separate error
        check_model_can_validate(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), key)


def check_model_can_validate(model_class: object, key: str) -> None:
    """
    Check that a model computes its losses on any data.

    Args:
        model_class (object): The class of the model.
        key (str): Config key of the validation loss, for the message.

    Raises:
        InputError: If the class is not FCOS or a subclass of it, or if it has other losses than
            those of ``compute_loss_terms``.
    """
    name = getattr(model_class, "__name__", model_class)
    fcos_class = _as_fcos_class(model_class)
    if fcos_class is None:
        text = (
            f"{key} = True needs the model FCOS or a subclass of it (MODEL.META_ARCHITECTURE, or "
            f"model in a LazyConfig), but the model is {name}."
        )
        raise InputError(text, key=key, value=True)
    methods = ("forward", "forward_training")
    own = [x for x in methods if getattr(fcos_class, x) is not getattr(FCOS, x)]
    if own and fcos_class.compute_loss_terms is FCOS.compute_loss_terms:
        raise InputError(
            f"{key} = True: {name} replaces {' and '.join(own)}, but not compute_loss_terms, which "
            "computes the validation losses. Replace it too, so that both compute the same losses.",
            key=key,
            value=True,
        )


def _as_fcos_class(model_class: object) -> type[FCOS] | None:
    """Return a class that is FCOS or a subclass of it, and None for anything else."""
    if isinstance(model_class, type) and issubclass(model_class, FCOS):
        return model_class
    return None


def known_losses(model: nn.Module | None) -> list[str] | None:
    """
    Return the names of the losses of a model, as far as they are known before the first batch.

    Args:
        model (nn.Module | None): The model.

    Returns:
        list[str] | None: The names; None if a part of the model may have other losses.
    """
    if not isinstance(model, FCOS) or type(model) is not FCOS:
        return None
    if type(model.dense_head) is not FCOSDenseHead:
        return None
    return getattr(model.losses, "loss_names", None)


def compute_validation_losses(
    cfg: CfgNode, model: FCOS
) -> dict[str, float] | dict[str, dict[str, float]]:
    """
    Compute the losses on DATASETS.TEST with ``compute_losses_of_dataset``.

    Images are prepared as in an evaluation: they are resized according to INPUT.MIN_SIZE_TEST, and
    a batch has one image.

    Args:
        cfg (CfgNode): A config that ``check_can_validate`` accepts.
        model (FCOS): The model, not wrapped in DistributedDataParallel.

    Returns:
        dict: Losses by name. If there are several datasets, a dictionary of such losses by
        dataset name.
    """
    losses = {
        name: compute_losses_of_dataset(model, _build_loader(cfg, name))
        for name in cfg.DATASETS.TEST
    }
    return losses if len(losses) > 1 else next(iter(losses.values()))


def _build_loader(cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, Any]]]:
    """Build detectron2's test loader, with annotations; each process reads a part of the images."""
    augmentations = build_augmentation(cfg, is_train=False)
    mapper = FCOSDatasetMapper(
        cfg, is_train=True, augmentations=augmentations, skip_unreadable_images=False
    )
    return build_detection_test_loader(cfg, dataset_name, mapper=mapper)


@torch.no_grad()
def compute_losses_of_dataset(
    model: FCOS, data_loader: Iterable[list[dict[str, Any]]]
) -> dict[str, float]:
    """
    Compute the training losses of a whole dataset, as if it were one batch.

    The sum over all images is divided by the number of positives in all images, so that the result
    does not depend on the batch size or the number of processes. The model is in eval mode, so
    batch norms use their running statistics. The modes of its modules and the state of the random
    generators are restored, so that this function does not change the training.

    Args:
        model (FCOS): The model, not wrapped in DistributedDataParallel.
        data_loader (Iterable): Batches of dictionaries with "image" and "instances"; each process
            passes its part of the dataset.

    Returns:
        dict[str, float]: Losses over the images of all processes, under the names that they have
        in training, and "total_loss". With LOSS_NORMALIZER "moving_fg" they are divided as with
        "fg", because the moving average is that of training batches.
    """
    own: LossTerms | None = None  # None if this process has no image
    with _in_eval_mode(model), preserve_random_state():
        for batched_inputs in data_loader:
            terms = model.compute_loss_terms(batched_inputs).detached()
            own = terms if own is None else own.plus(terms)
        gathered = (terms for terms in comm.all_gather(own) if terms is not None)
        losses = model.losses.normalize(reduce(LossTerms.plus, gathered))
    values = {name: loss.item() for name, loss in losses.items()}
    return {**values, "total_loss": sum(values.values())}


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Set a model to eval mode for a block, and restore the mode of each module after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
