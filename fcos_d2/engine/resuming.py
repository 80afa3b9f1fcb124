"""Where a training starts: from weights, or from the last checkpoint of an earlier run."""

import logging

from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from ..checkpoint import FCOSCheckpointer

__all__ = ["load_or_resume", "warn_of_frozen_random_weights"]

logger = logging.getLogger(__name__)


def load_or_resume(
    checkpointer: FCOSCheckpointer, weights: str, *, resume: bool, key: str = "MODEL.WEIGHTS"
) -> bool:
    """
    Load the last checkpoint of a run, or weights to start from.

    Args:
        checkpointer (FCOSCheckpointer): of the model, and of the trainer's state.
        weights (str): path or address; "" leaves the weights random.
        resume (bool): load the last checkpoint if there is one.
        key (str): of the config, that names the weights.

    Returns:
        bool: whether a run is resumed.
    """
    unused = checkpointer.resume_or_load(weights, resume=resume)
    resumes = resume and checkpointer.has_checkpoint()
    if resumes and "averaged_model" in unused:
        logger.warning(
            "The checkpoint that training resumes from has averaged weights, which are dropped: "
            "EMA_DECAY is 0."
        )
    if not (resumes or weights):
        warn_of_frozen_random_weights(checkpointer.model, key)
    return resumes


def warn_of_frozen_random_weights(model: nn.Module, key: str = "MODEL.WEIGHTS") -> None:
    """
    Warn if layers that no checkpoint has filled will not learn either.

    Args:
        model (nn.Module): whose weights are random.
        key (str): of the config, that names a checkpoint.
    """
    frozen_norms = sum(isinstance(x, FrozenBatchNorm2d) for x in model.modules())
    frozen_weights = sum(not x.requires_grad for x in model.parameters())
    bottom_up = getattr(getattr(model, "backbone", None), "bottom_up", None)
    if getattr(bottom_up, "pretrained", False):
        return  # by the package that the network comes from
    if frozen_norms or frozen_weights:
        logger.warning(
            "RANDOM WEIGHTS ARE FROZEN: %s is empty, but %d batch norms and %d weights of the "
            "model do not learn. This explodes or learns nothing. Give %s, or train from scratch "
            "with the norm BN (or GN) in the backbone and nothing frozen (in a YAML config "
            "MODEL.RESNETS.NORM BN and MODEL.BACKBONE.FREEZE_AT 0).",
            key,
            frozen_norms,
            frozen_weights,
            key,
        )
