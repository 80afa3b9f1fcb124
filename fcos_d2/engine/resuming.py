"""Loading of the weights or of the checkpoint from which a run starts."""

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from ..checkpoint import FCOSCheckpointer
from ..errors import InputError, agree, count_words, listed
from .checkpoints import check_can_resume
from .optimizer_settings import (
    Difference,
    apply_settings,
    find_differences,
    keys_of_groups,
    read_settings,
)
from .run_keys import YAML_KEYS, RunKeys

__all__ = ["load_for_evaluation", "load_or_resume", "warn_of_frozen_random_weights"]

logger = logging.getLogger(__name__)


def load_or_resume(
    checkpointer: FCOSCheckpointer,
    optimizer: torch.optim.Optimizer,
    weights: str,
    *,
    resume: bool,
    resume_lr: bool = False,
    keys: RunKeys = YAML_KEYS,
    exceptions: Mapping[str, str] = MappingProxyType({}),
    scaled: Collection[nn.Parameter] = (),
) -> bool:
    """
    Load the last checkpoint of a run, or the weights to start from.

    Args:
        checkpointer (FCOSCheckpointer): Loads the model and the state of the trainer.
        optimizer (Optimizer): The optimizer of the trainer, with the settings of the config.
        weights (str): Path or URL of the weights; "" leaves the weights random.
        resume (bool): Load the last checkpoint if there is one.
        resume_lr (bool): Use the config's settings of the optimizer instead of those in the
            checkpoint that is resumed.
        keys (RunKeys): Config keys, for messages.
        exceptions (dict[str, str]): More keys, see ``optimizer_settings.keys_of_groups``.
        scaled (Collection[Parameter]): See ``optimizer_settings.keys_of_groups``.

    Returns:
        bool: Whether a run is resumed.

    Raises:
        InputError: If weights do not fit, if there are checkpoints but the file that names the last
            one is missing or wrong, or if settings of the optimizer differ between the checkpoint
            and the config and ``resume_lr`` is False.
    """
    configured = read_settings(optimizer, keys.optimizer)
    unused = _load(checkpointer, weights, resume, keys)
    if not _resumes(checkpointer, resume):
        warn_of_frozen_random_weights(checkpointer.model, checkpointer.not_loaded, weights, keys)
        return False
    if "averaged_model" in unused:
        logger.warning(
            "The checkpoint that training resumes from has averaged weights, which are dropped "
            "because FCOS_TRAIN.EMA_DECAY (in a LazyConfig train.ema_decay) is 0."
        )
    saved = read_settings(optimizer, keys.optimizer)
    group_keys = keys_of_groups(optimizer, checkpointer.model, keys.optimizer, exceptions, scaled)
    differences = find_differences(saved, configured, group_keys)
    if differences:
        _check_may_differ(differences, checkpointer.get_checkpoint_file(), resume_lr, keys)
        apply_settings(optimizer, configured)
    return True


def load_for_evaluation(
    checkpointer: FCOSCheckpointer, weights: str, *, resume: bool, keys: RunKeys = YAML_KEYS
) -> None:
    """
    Load the weights to evaluate, or those of the last checkpoint of a run.

    Args:
        checkpointer (FCOSCheckpointer): Loads the model.
        weights (str): Path or URL of the weights.
        resume (bool): Load the last checkpoint if there is one.
        keys (RunKeys): Config keys, for messages.

    Raises:
        InputError: If weights do not fit, or if there are checkpoints but the file that names the
            last one is missing or wrong.
    """
    _load(checkpointer, weights, resume, keys)


def _resumes(checkpointer: FCOSCheckpointer, resume: bool) -> bool:
    """Return whether a checkpoint is loaded instead of the weights that the config names."""
    return resume and checkpointer.has_checkpoint()


def _load(
    checkpointer: FCOSCheckpointer, weights: str, resume: bool, keys: RunKeys
) -> dict[str, Any]:
    """Load what ``resume_or_load`` selects, and log what is not used."""
    if resume:
        check_can_resume(checkpointer.save_dir, keys.output_dir)
    if resume and not checkpointer.has_checkpoint():
        logger.warning(
            "--resume finds nothing to resume in %s = %s: the run starts from %s.",
            keys.output_dir,
            checkpointer.save_dir,
            f"{keys.weights} = {weights}" if weights else f"random weights ({keys.weights} is '')",
        )
    elif resume and weights:
        logger.info(
            "Resuming from %s: %s = %s is not read.",
            checkpointer.get_checkpoint_file(),
            keys.weights,
            weights,
        )
    return checkpointer.resume_or_load(weights, resume=resume)


def _check_may_differ(
    differences: list[Difference], checkpoint: str, resume_lr: bool, keys: RunKeys
) -> None:
    """
    Log the settings that a resumed run takes from its config.

    Raises:
        InputError: If ``resume_lr`` is False.
    """
    lines = "".join(
        f"\n  {x.key}: {x.saved} in the checkpoint, {x.configured} in the config"
        for x in differences
    )
    if not resume_lr:
        raise InputError(
            f"--resume continues with the optimizer in {checkpoint}, which has other settings than "
            f"the config:{lines}\nSet these keys to the values of the checkpoint. To continue with "
            f"the values of the config, add {keys.resume_lr}{keys.equals}True to the command.",
            key=re.split(r" and | \* ", differences[0].key)[-1],
            value=differences[0].configured,
            file=checkpoint,
        )
    logger.info(
        "%s is True, so the optimizer gets the settings of the config:%s", keys.resume_lr, lines
    )


def warn_of_frozen_random_weights(
    model: nn.Module, not_loaded: Iterable[str], weights: str, keys: RunKeys = YAML_KEYS
) -> None:
    """
    Warn if layers with random weights are frozen.

    Args:
        model (nn.Module): The model.
        not_loaded (Iterable[str]): Names in the state dict whose values are still random.
        weights (str): The file that the other weights were loaded from; "" if there is none.
        keys (RunKeys): Config keys, for the message.
    """
    frozen = _frozen_names(model)
    names = [name for name in not_loaded if name in frozen]
    if not names:
        return
    it_lacks = agree(f"{weights} lacks {{it|them}} or has {{it|them}} in another shape", len(names))
    logger.warning(
        "RANDOM WEIGHTS ARE FROZEN: %d of %s that training does not change %s random, because %s: "
        "%s. The training would diverge or learn nothing. Set %s to a checkpoint that has these "
        "weights, or train them: with the norm BN or GN in the backbone and without frozen layers "
        "(MODEL.RESNETS.NORM BN and MODEL.BACKBONE.FREEZE_AT 0; in a LazyConfig norm and freeze_at "
        "of the backbone).",
        len(names),
        count_words(len(frozen), "{weight|weights}"),
        agree("{is|are}", len(names)),
        it_lacks if weights else f"{keys.weights} is empty",
        listed(names, 4),
        keys.weights,
    )


def _frozen_names(model: nn.Module) -> set[str]:
    """
    Return the names of the weights that training does not change.

    The statistics of frozen norms are not included: files of detectron2's model zoo have them in
    the weights of the norm. Weights that timm has loaded are not random.
    """
    frozen = {name for name, x in model.named_parameters() if not x.requires_grad}
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            frozen |= {f"{name}.weight", f"{name}.bias"}
    bottom_up = getattr(getattr(model, "backbone", None), "bottom_up", None)
    if getattr(bottom_up, "pretrained", False):
        frozen = {name for name in frozen if not name.startswith("backbone.bottom_up.")}
    return frozen
