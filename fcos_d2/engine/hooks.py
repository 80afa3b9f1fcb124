"""The hooks of a training: one list for YAML configs and LazyConfigs."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..checkpoint import FCOSCheckpointer
from ..errors import InputError
from .best_checkpoint import KeepBest
from .checkpoints import SaveCheckpoints
from .diagnostics import LogDiagnostics
from .early_stopping import EarlyStopping
from .evaluation_hook import Evaluate
from .loss_log import ReadLosses
from .processes import share_buffers
from .random_state import random_state_kept
from .run_settings import RunSettings
from .signals import EndAtSignal, Signals
from .step_trainer import StepTrainer
from .weight_averaging import AverageWeights, SetAsideAverage

__all__ = ["RunParts", "build_hooks"]

logger = logging.getLogger(__name__)


class RunParts(NamedTuple):
    """
    The parts of a training that hooks work with.

    Attributes:
        trainer (StepTrainer): which makes the steps.
        checkpointer (FCOSCheckpointer): of the same model.
        scheduler: of the learning rate, see detectron2's LRScheduler; None: the trainer's own.
        build_writers: makes the writers; called in the main process.
        evaluate: (model, output_dir) -> results by task and metric; None: there is no evaluation.
        compute_validation_losses: model -> losses by name; None: without validation losses.
        before_saving (list[HookBase]): hooks that change the model.
    """

    trainer: StepTrainer
    checkpointer: FCOSCheckpointer
    scheduler: Any
    build_writers: Callable[[], list[Any]]
    evaluate: Callable[[nn.Module, str], dict[str, Any]] | None = None
    compute_validation_losses: Callable[[nn.Module], dict[str, Any]] | None = None
    before_saving: Sequence[HookBase] = ()


def build_hooks(settings: RunSettings, parts: RunParts) -> list[HookBase]:
    """
    Build the hooks of a training, in the order in which they depend on each other.

    Averaged weights become a part of the checkpoints: call it before a checkpoint is loaded.

    Raises:
        InputError: early stopping without an evaluation.
    """
    s, signals, is_main = settings, Signals(), comm.is_main_process()
    evaluates = parts.evaluate is not None or parts.compute_validation_losses is not None
    _check_comparisons(s, evaluates)
    averaging = _build_averaging(s, parts.checkpointer)
    averaged = averaging.averaged.module if isinstance(averaging, AverageWeights) else None
    model = parts.checkpointer.model
    best_model = averaged if averaged and s.best_metric.startswith("ema/") else model
    periods = (s.log_period, s.checkpoint_period, s.eval_period)
    all_hooks: list[HookBase] = [
        ReadLosses(parts.trainer.losses, periods, signals),
        averaging,
        LogDiagnostics(parts.trainer.model, s.log_period),
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=parts.scheduler),
        *parts.before_saving,
    ]
    if is_main:  # before the evaluation: should it fail, there is a checkpoint
        all_hooks.append(SaveCheckpoints(parts.checkpointer, s.checkpoint_period, s.max_to_keep))
    if evaluates:
        evaluate = Evaluate(s.eval_period, lambda: _evaluate(s, parts, averaged), signals)
        all_hooks.append(evaluate)
    if is_main and evaluates and s.best_metric and s.eval_period > 0:
        all_hooks.append(KeepBest(s.eval_period, best_model, s.output_dir, s.best_metric))
    if s.early_stopping_patience > 0:
        patience = s.early_stopping_patience
        all_hooks.append(EarlyStopping(s.eval_period, s.best_metric, patience))
    if is_main:  # after all that is logged
        all_hooks.append(hooks.PeriodicWriter(parts.build_writers(), s.log_period))
    if s.checkpoint_at_signal:
        all_hooks.append(EndAtSignal(signals, parts.checkpointer))
    return all_hooks


def _build_averaging(
    settings: RunSettings, checkpointer: FCOSCheckpointer
) -> AverageWeights | SetAsideAverage:
    if settings.ema_decay == 0:
        return SetAsideAverage(settings.output_dir)
    averaging = AverageWeights(checkpointer.model, settings.ema_decay, settings.output_dir)
    checkpointer.add_checkpointable("averaged_model", averaging.averaged)
    return averaging


def _check_comparisons(settings: RunSettings, evaluates: bool) -> None:
    """Raise, or warn, if evaluations were meant to be compared and there are none."""
    patience, metric = settings.early_stopping_patience, settings.best_metric
    if patience > 0 and not evaluates:
        key = settings.key("early_stopping_patience")
        text = f"{key} = {patience}, but there is nothing to evaluate with."
        raise InputError(text, key=key, value=patience)
    if settings.eval_period == 0 and metric not in ("", RunSettings.best_metric):
        logger.warning(
            "%s = %r keeps no model_best.pth, as %s is 0: only the final weights are evaluated.",
            settings.key("best_metric"),
            metric,
            settings.key("eval_period"),
        )


def _evaluate(settings: RunSettings, parts: RunParts, averaged: nn.Module | None) -> dict[str, Any]:
    """Make all of one evaluation; results of averaged weights are under "ema"."""
    results = _evaluate_model(parts, parts.trainer.model, settings.output_dir)
    if averaged is not None:
        logger.info("Evaluating the averaged weights.")
        output_dir = os.path.join(settings.output_dir, "ema")  # keeps the raw weights' detections
        with random_state_kept():  # so that the average changes nothing in training
            results["ema"] = _evaluate_model(parts, averaged, output_dir)
    return results


def _evaluate_model(parts: RunParts, model: nn.Module, output_dir: str) -> dict[str, Any]:
    share_buffers(model)
    results = {} if parts.evaluate is None else {**parts.evaluate(model, output_dir)}
    if parts.compute_validation_losses is not None:
        unwrapped = model.module if isinstance(model, DistributedDataParallel) else model
        results["val_loss"] = parts.compute_validation_losses(unwrapped)
    return results
