"""The hook for an exponential moving average of the weights, in addition to the trained weights."""

import logging
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..atomic_write import replacing
from .best_checkpoint import set_aside

__all__ = ["AverageWeights", "SetAsideAverage", "decay_after"]

logger = logging.getLogger(__name__)

_FILE_NAME = "model_final_ema.pth"


def decay_after(num_updates: int, decay: float) -> float:
    """
    Return the decay for the next update, which is min(decay, (1 + n) / (10 + n)).

    With a constant decay of 0.999, the initial weights would contribute more than a third of the
    average after 1000 steps. With this rule, an average of few steps forgets them quickly, so that
    the warm-up of the learning rate needs no extra setting. TensorFlow's ExponentialMovingAverage
    has the same rule.

    Args:
        num_updates (int): Number n of updates so far.
        decay (float): The largest decay.
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))


class AverageWeights(HookBase):
    """
    The hook that averages the weights and writes ``model_final_ema.pth`` at the end.

    The average is updated after every optimizer step. The hook must come before the hooks that save
    and evaluate.

    Buffers are averaged too, because the running statistics of batch norms must fit the weights:
    those of the last step fit only the weights of the last step.

    Args:
        model (nn.Module): The trained model, not wrapped in DistributedDataParallel.
        decay (float): Decay of the average, above 0 and below 1; see ``decay_after``.
        output_dir (str): Folder of the file.

    Attributes:
        averaged (AveragedModel): The average; ``averaged.module`` is the model with the averaged
            weights. This object must be added to the checkpoints, or else a resumed run starts a
            new average. Every process has the same average.
    """

    def __init__(self, model: nn.Module, decay: float, output_dir: str) -> None:
        self.averaged = AveragedModel(model, use_buffers=True).requires_grad_(False)
        self._model = model
        self._decay = decay
        self._file = Path(output_dir) / _FILE_NAME

    def before_train(self) -> None:
        """Warn if the checkpoint from which training resumes has no average."""
        if self.trainer.start_iter > 0 and self.averaged.n_averaged == 0:
            logger.warning(
                "EMA_DECAY is %s, but the checkpoint that training resumes from has no averaged "
                "weights: the average begins with iteration %d.",
                self._decay,
                self.trainer.start_iter,
            )

    def after_step(self) -> None:
        """Update the average."""
        # The counter is on the CPU, so reading it does not wait for a GPU.
        decay = decay_after(int(self.averaged.n_averaged), self._decay)
        self.averaged.multi_avg_fn = get_ema_multi_avg_fn(decay)
        self.averaged.update_parameters(self._model)

    def after_last_step(self) -> None:
        """Save the average; ``run_loop.RunLoop`` calls this method."""
        if not comm.is_main_process():
            return
        logger.info("Saving the averaged weights to %s", self._file)
        content = {"model": self.averaged.module.state_dict(), "iteration": self.trainer.iter}
        with replacing(self._file) as temporary:
            torch.save(content, temporary)


class SetAsideAverage(HookBase):
    """
    The hook that renames the averaged weights of an earlier run, if EMA_DECAY is 0.

    These averaged weights would not fit the final weights of this run. Until the final weights of
    this run replace those of the earlier run, they still fit. Therefore the file is renamed just
    before the final weights are saved, and this hook must come before the hook that saves them.

    Args:
        output_dir (str): Folder that may contain ``model_final_ema.pth``.
    """

    def __init__(self, output_dir: str) -> None:
        self._file = Path(output_dir) / _FILE_NAME

    def after_last_step(self) -> None:
        """Rename the file; ``run_loop.RunLoop`` calls this method."""
        if comm.is_main_process() and self._file.is_file():
            logger.warning(
                "%s is from an earlier training run, and this run does not average weights "
                "(EMA_DECAY is 0). The file is renamed.",
                self._file,
            )
            set_aside(self._file)
