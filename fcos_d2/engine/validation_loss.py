"""The losses on the test data, computed during training."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.data.detection_utils import build_augmentation
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    GeneralizedRCNN,
    ProposalNetwork,
)
from detectron2.utils import comm
from torch import nn

from ..data.dataset_mapper import FCOSDatasetMapper
from ..errors import InputError
from ..modeling import FCOS, FCOSDenseHead, FCOSLosses, FCOSProposalGenerator, LossTerms
from ..modeling.two_stage import proposes
from ..modeling.two_stage_losses import compute_two_stage_loss_terms, roi_loss_names
from ..registration import is_class_of
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
    names = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PROPOSAL_GENERATOR.NAME
    registries = META_ARCH_REGISTRY, PROPOSAL_GENERATOR_REGISTRY
    # A name that is not registered has a separate error.
    model_class, generator_class = (
        registry.get(name) if name in registry else None
        for name, registry in zip(names, registries, strict=True)
    )
    if model_class is not None:
        check_model_can_validate(model_class, generator_class if proposes(cfg) else None, key)


def check_model_can_validate(model_class: object, generator_class: object, key: str) -> None:
    """
    Check that a model computes its losses on any data.

    Args:
        model_class (object): The class of the model.
        generator_class (object): The class of its proposal generator; None if it has none.
        key (str): Config key of the validation loss, for the message.

    Raises:
        InputError: If the model is not FCOS or built on FCOS, or if it has other losses than those
            of ``compute_loss_terms``.
    """
    has_proposals = any(is_class_of(model_class, x) for x in (GeneralizedRCNN, ProposalNetwork))
    if has_proposals and is_class_of(generator_class, FCOSProposalGenerator):
        return
    name = getattr(model_class, "__name__", model_class)
    if not is_class_of(model_class, FCOS):
        text = (
            f"{key} = True needs the model FCOS or a subclass of it (MODEL.META_ARCHITECTURE, or "
            "model in a LazyConfig), or a two-stage detector with FCOS as its proposal generator, "
            f"but the model is {name}."
        )
        raise InputError(text, key=key, value=True)
    methods = ("forward", "forward_training")
    own = [x for x in methods if getattr(model_class, x) is not getattr(FCOS, x)]
    if own and model_class.compute_loss_terms is FCOS.compute_loss_terms:
        raise InputError(
            f"{key} = True: {name} replaces {' and '.join(own)}, but not compute_loss_terms, which "
            "computes the validation losses. Replace it too, so that both compute the same losses.",
            key=key,
            value=True,
        )


def known_losses(model: nn.Module | None) -> list[str] | None:
    """
    Return the names of the losses of a model, as far as they are known before the first batch.

    Args:
        model (nn.Module | None): The model.

    Returns:
        list[str] | None: The names; None if a part of the model may have other losses.
    """
    others: list[str] | None = []
    owner: object = model
    if isinstance(model, (GeneralizedRCNN, ProposalNetwork)):
        owner, others = model.proposal_generator, roi_loss_names(model)
    known = (FCOS, FCOSProposalGenerator)
    if not isinstance(owner, known) or type(owner) not in known:  # subclasses may have others
        return None
    if type(owner.dense_head) is not FCOSDenseHead or others is None:
        return None
    names = getattr(owner.losses, "loss_names", None)
    return None if names is None else [*names, *others]


def compute_validation_losses(
    cfg: CfgNode, model: nn.Module
) -> dict[str, float] | dict[str, dict[str, float]]:
    """
    Compute the losses on DATASETS.TEST with ``compute_losses_of_dataset``.

    Images are prepared as in an evaluation: they are resized according to INPUT.MIN_SIZE_TEST, and
    a batch has one image.

    Args:
        cfg (CfgNode): A config that ``check_can_validate`` accepts.
        model (nn.Module): The model, not wrapped in DistributedDataParallel.

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
    model: nn.Module, data_loader: Iterable[list[dict[str, Any]]]
) -> dict[str, float]:
    """
    Compute the training losses of a whole dataset, as if it were one batch.

    The sum over all images is divided by the number of positives in all images, so that the result
    does not depend on the batch size or the number of processes. The losses of ROI heads are means
    over the images of a batch, and the result is the mean over all images. The model is in eval
    mode, so batch norms use their running statistics. The modes of its modules and the state of the
    random generators are restored, so that this function does not change the training.

    Args:
        model (nn.Module): The model, not wrapped in DistributedDataParallel, as
            ``check_model_can_validate`` accepts it.
        data_loader (Iterable): Batches of dictionaries with "image" and "instances"; each process
            passes its part of the dataset.

    Returns:
        dict[str, float]: Losses over the images of all processes, under the names that they have
        in training, and "total_loss". With LOSS_NORMALIZER "moving_fg" they are divided as with
        "fg", because the moving average is that of training batches.
    """
    compute_loss_terms, criterion = _loss_computation(model)
    own: LossTerms | None = None  # None if this process has no image
    with _in_eval_mode(model), preserve_random_state():
        torch.manual_seed(0)  # ROI heads sample the same proposals in each evaluation
        for batched_inputs in data_loader:
            terms = compute_loss_terms(batched_inputs).detached()
            own = terms if own is None else own.plus(terms)
        gathered = (terms for terms in comm.all_gather(own) if terms is not None)
        losses = criterion.normalize(reduce(LossTerms.plus, gathered))
    values = {name: loss.item() for name, loss in losses.items()}
    return {**values, "total_loss": sum(values.values())}


def _loss_computation(
    model: nn.Module,
) -> tuple[Callable[[list[dict[str, Any]]], LossTerms], FCOSLosses]:
    """Return the function that computes the loss terms of a batch, and what normalizes them."""
    if isinstance(model, FCOS):
        return model.compute_loss_terms, model.losses
    assert isinstance(model, (GeneralizedRCNN, ProposalNetwork)), type(model)
    losses: FCOSLosses = model.proposal_generator.losses
    return partial(compute_two_stage_loss_terms, model), losses


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
