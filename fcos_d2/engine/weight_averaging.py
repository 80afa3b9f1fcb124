"""An exponential moving average of the weights, kept beside those that are trained."""

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
    The decay for the next update: min(decay, (1 + n) / (10 + n)).

    With a decay of 0.999 the weights at the start would count for more than a third of the average
    after 1000 steps. So an average of few steps forgets fast, and a warm-up of the learning
    rate needs no setting here. (The rule is that of TensorFlow's ExponentialMovingAverage.)
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))


class AverageWeights(HookBase):
    """
    Updates the average after every step of the optimizer and writes ``model_final_ema.pth`` at the
    end. Must come before the hooks that save and evaluate.

    Buffers are averaged as well: the statistics of batch norms belong to the weights that the maps
    were computed with, and those of the last step fit the last weights alone.

    Attributes:
        averaged (AveragedModel): ``averaged.module`` is the model with the averaged weights.
            Whoever saves checkpoints must save it too, or a resumed training begins another
            average. Of several processes each keeps one, of the same weights.
    """

    def __init__(self, model: nn.Module, decay: float, output_dir: str) -> None:
        """
        Args:
            model (nn.Module): what is trained, not wrapped in DistributedDataParallel.
            decay (float): above 0 and below 1, see ``decay_after``.
            output_dir (str): where the file goes.
        """
        self.averaged = AveragedModel(model, use_buffers=True).requires_grad_(False)
        self._model = model
        self._decay = decay
        self._file = Path(output_dir) / _FILE_NAME

    def before_train(self) -> None:
        if self.trainer.start_iter > 0 and self.averaged.n_averaged == 0:
            logger.warning(
                "Weights are averaged with the decay %s, but the checkpoint that training resumes "
                "from has no averaged weights: the average begins with iteration %d.",
                self._decay,
                self.trainer.start_iter,
            )

    def after_step(self) -> None:
        # The counter stays on the CPU, wherever the weights are.
        decay = decay_after(int(self.averaged.n_averaged), self._decay)
        self.averaged.multi_avg_fn = get_ema_multi_avg_fn(decay)
        self.averaged.update_parameters(self._model)

    def after_last_step(self) -> None:
        """Save the average, see ``run_loop.RunLoop``."""
        if not comm.is_main_process():
            return
        logger.info("Saving the averaged weights to %s", self._file)
        content = {"model": self.averaged.module.state_dict(), "iteration": self.trainer.iter}
        with replacing(self._file) as temporary:
            torch.save(content, temporary)


class SetAsideAverage(HookBase):
    """
    For a training that averages nothing: an average that an earlier one has left must not stay
    beside newer final weights. It is renamed just before these are saved: until then it belongs to
    the final weights that are there. Must come before the hook that saves.
    """

    def __init__(self, output_dir: str) -> None:
        """
        Args:
            output_dir (str): where ``model_final_ema.pth`` may be.
        """
        self._file = Path(output_dir) / _FILE_NAME

    def after_last_step(self) -> None:
        """Rename the file, see ``run_loop.RunLoop``."""
        if comm.is_main_process() and self._file.is_file():
            logger.warning(
                "%s is from an earlier training, and this one averages nothing (EMA_DECAY is 0): "
                "it is renamed.",
                self._file,
            )
            set_aside(self._file)
