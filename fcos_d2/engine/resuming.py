"""Loading of the weights or of the checkpoint from which a training run starts."""

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
    Load the last checkpoint of a run, or the weights to start from.

    Args:
        checkpointer (FCOSCheckpointer): Loads the model and the state of the trainer.
        weights (str): Path or URL of the weights; "" leaves the weights random.
        resume (bool): Load the last checkpoint if there is one.
        key (str): Config key of the weights, for messages.

    Returns:
        bool: Whether a run is resumed.
    """
    unused = checkpointer.resume_or_load(weights, resume=resume)
    resumes = resume and checkpointer.has_checkpoint()
    if resumes and "averaged_model" in unused:
        logger.warning(
            "The checkpoint that training resumes from has averaged weights, which are dropped "
            "because EMA_DECAY is 0."
        )
    if not (resumes or weights):
        warn_of_frozen_random_weights(checkpointer.model, key)
    return resumes


def warn_of_frozen_random_weights(model: nn.Module, key: str = "MODEL.WEIGHTS") -> None:
    """
    Warn if layers with random weights are frozen.

    Args:
        model (nn.Module): A model with random weights.
        key (str): Config key of the weights, for the message.
    """
    frozen_norms = sum(isinstance(x, FrozenBatchNorm2d) for x in model.modules())
    frozen_weights = sum(not x.requires_grad for x in model.parameters())
    bottom_up = getattr(getattr(model, "backbone", None), "bottom_up", None)
    if getattr(bottom_up, "pretrained", False):
        return  # timm has loaded pretrained weights
    if frozen_norms or frozen_weights:
        logger.warning(
            "RANDOM WEIGHTS ARE FROZEN: %s is empty, but %d batch norms and %d weights of the "
            "model are not trained. The training would diverge or learn nothing. Set %s to a "
            "checkpoint, or train from scratch with the norm BN or GN in the backbone and without "
            "frozen layers (in a YAML config MODEL.RESNETS.NORM BN and "
            "MODEL.BACKBONE.FREEZE_AT 0).",
            key,
            frozen_norms,
            frozen_weights,
            key,
        )
