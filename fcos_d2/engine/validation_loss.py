"""The losses on data that the model does not learn from."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from detectron2.data import build_detection_test_loader
from detectron2.data.detection_utils import build_augmentation
from detectron2.utils import comm
from torch import nn

from ..data.dataset_mapper import FCOSDatasetMapper
from ..errors import InputError
from ..modeling import FCOS, LossTerms
from .random_state import preserve_random_state

__all__ = ["check_can_validate", "compute_losses_of_dataset", "compute_validation_losses"]


def check_can_validate(cfg: Any) -> None:
    """
    Check that FCOS_TRAIN.VALIDATION_LOSS can be computed.

    Raises:
        InputError: there are no data for it, or no losses of FCOS.
    """
    key = "FCOS_TRAIN.VALIDATION_LOSS"
    if not cfg.DATASETS.TEST:
        text = f"{key} = True is computed on DATASETS.TEST, which is empty."
        raise InputError(text, key=key, value=True)
    if cfg.MODEL.META_ARCHITECTURE != "FCOS":
        name = cfg.MODEL.META_ARCHITECTURE
        text = f"{key} = True is for MODEL.META_ARCHITECTURE 'FCOS', not {name!r}."
        raise InputError(text, key=key, value=True)


def compute_validation_losses(cfg: Any, model: Any) -> dict[str, Any]:
    """
    Compute the losses of ``compute_losses_of_dataset`` for DATASETS.TEST.

    Images are those of an evaluation: resized by INPUT.MIN_SIZE_TEST, one at a time.

    Args:
        cfg (CfgNode): one that ``check_can_validate`` accepts.
        model (FCOS): not wrapped in DistributedDataParallel.

    Returns:
        dict: of one dataset its losses by name, of several such a dict for each, by its name.
    """
    losses = {
        name: compute_losses_of_dataset(model, _build_loader(cfg, name))
        for name in cfg.DATASETS.TEST
    }
    return losses if len(losses) > 1 else next(iter(losses.values()))


def _build_loader(cfg: Any, dataset_name: str) -> Any:
    """detectron2's test loader (each process has its share), which keeps the annotations."""
    augmentations = build_augmentation(cfg, is_train=False)
    mapper = FCOSDatasetMapper(cfg, is_train=True, augmentations=augmentations)
    return build_detection_test_loader(cfg, dataset_name, mapper=mapper)


@torch.no_grad()
def compute_losses_of_dataset(
    model: FCOS, data_loader: Iterable[list[dict[str, Any]]]
) -> dict[str, float]:
    """
    Compute the training losses of a whole dataset, as if it were one batch.

    Sums over all its images are divided by its positives, so that neither the size of batches nor
    the number of processes counts. The model computes as in inference (batch norms with their
    running statistics). It is left as it was, and so are the random generators: training continues
    as it would have without this.

    Args:
        model (FCOS): not wrapped in DistributedDataParallel.
        data_loader: batches of dictionaries with "image" and "instances", this process's share.

    Returns:
        dict[str, float]: by name, as in training, and "total_loss"; of the images of all processes.
        LOSS_NORMALIZER "moving_fg" divides as "fg" does: its average is one of training batches.
    """
    own: LossTerms | None = None  # of this process, which may have no image
    with _in_eval_mode(model), preserve_random_state():
        for batched_inputs in data_loader:
            terms = model.compute_loss_terms(batched_inputs).detached()
            own = terms if own is None else own.plus(terms)
        of_all = reduce(LossTerms.plus, (x for x in comm.all_gather(own) if x is not None))
        losses = model.losses.normalize(of_all)
    values = {name: loss.item() for name, loss in losses.items()}
    return {**values, "total_loss": sum(values.values())}


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
