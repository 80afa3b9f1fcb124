"""The hooks of a training run, which are the same for YAML configs and LazyConfigs."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler

from ..checkpoint import FCOSCheckpointer
from ..errors import InputError
from .best_checkpoint import KeepBest
from .checkpoints import SaveCheckpoints
from .diagnostics import LogDiagnostics
from .early_stopping import EarlyStopping
from .evaluation_hook import Evaluate
from .loss_log import ReadLosses
from .metric_names import is_validation_loss
from .processes import share_buffers
from .random_state import preserve_random_state
from .run_settings import RunSettings
from .signals import EndAtSignal, Signals
from .step_trainer import StepTrainer
from .weight_averaging import AverageWeights, SetAsideAverage

__all__ = ["RunParts", "build_hooks"]

logger = logging.getLogger(__name__)


class RunParts(NamedTuple):
    """
    The parts of a training run that the hooks use.

    Attributes:
        trainer (StepTrainer): Runs the training steps.
        checkpointer (FCOSCheckpointer): Saves and loads the model of the trainer.
        scheduler (ParamScheduler or LRScheduler): Schedule of the learning rate, for detectron2's
            hook LRScheduler. None means the trainer's own schedule.
        build_writers (Callable): Builds the event writers; it is called in the main process.
        evaluate (Callable): Takes the model and an output folder, and returns results by task and
            metric. None means that there is no evaluation.
        evaluate_with_tta (Callable): As ``evaluate``, with test-time augmentation, which is called
            only after the last iteration. None means that there is no such evaluation.
        compute_validation_losses (Callable): Takes the model and returns losses by name. None
            means that no validation losses are computed.
        before_saving (Sequence[HookBase]): Hooks that change the model before it is saved.
    """

    trainer: StepTrainer
    checkpointer: FCOSCheckpointer
    scheduler: ParamScheduler | LRScheduler | None
    build_writers: Callable[[], list[EventWriter]]
    evaluate: Callable[[nn.Module, str], dict[str, Any]] | None = None
    evaluate_with_tta: Callable[[nn.Module, str], dict[str, Any]] | None = None
    compute_validation_losses: Callable[[nn.Module], Mapping[str, Any]] | None = None
    before_saving: Sequence[HookBase] = ()


def build_hooks(settings: RunSettings, parts: RunParts) -> list[HookBase]:
    """
    Build the hooks of a training run, in the order in which they depend on each other.

    Call this function before a checkpoint is loaded, because averaged weights become a part of the
    checkpoints.

    Raises:
        InputError: If early stopping is set, but nothing computes its metric.
    """
    signals, is_main = Signals(), comm.is_main_process()
    eval_period, metric = settings.eval_period, settings.best_metric
    has_scores = parts.evaluate is not None
    has_losses = parts.compute_validation_losses is not None
    has_metric = has_losses if is_validation_loss(metric) else has_scores
    _check_comparisons(settings, has_metric)
    averaging = _build_averaging(settings, parts.checkpointer)
    averaged = averaging.averaged.module if isinstance(averaging, AverageWeights) else None
    best_model = averaged if averaged and metric.startswith("ema/") else parts.checkpointer.model
    periods = (settings.log_period, settings.checkpoint_period, eval_period)
    all_hooks: list[HookBase] = [
        ReadLosses(parts.trainer.losses, periods, signals),
        averaging,
        LogDiagnostics(parts.trainer.model, settings.log_period),
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=parts.scheduler),
        *parts.before_saving,
    ]
    if is_main:  # before the evaluation, so that there is a checkpoint if the evaluation fails
        period, max_to_keep = settings.checkpoint_period, settings.max_to_keep
        all_hooks.append(SaveCheckpoints(parts.checkpointer, period, max_to_keep))
    if has_scores or has_losses:
        evaluate_model = partial(_evaluate_model, parts)
        evaluate = partial(_evaluate, settings, parts, averaged, evaluate_model)
        all_hooks.append(Evaluate(eval_period, evaluate, signals))
    if is_main and has_metric and metric and eval_period > 0:
        all_hooks.append(KeepBest(eval_period, best_model, settings.output_dir, metric))
    if settings.early_stopping_patience > 0:
        all_hooks.append(EarlyStopping(eval_period, metric, settings.early_stopping_patience))
    if parts.evaluate_with_tta is not None:  # last, because it takes long
        evaluate = partial(_evaluate, settings, parts, averaged, parts.evaluate_with_tta)
        all_hooks.append(Evaluate(0, evaluate, signals))
    if is_main:  # after the hooks that log values
        all_hooks.append(hooks.PeriodicWriter(parts.build_writers(), settings.log_period))
    if settings.checkpoint_at_signal:
        all_hooks.append(EndAtSignal(signals, parts.checkpointer))
    return all_hooks


def _build_averaging(
    settings: RunSettings, checkpointer: FCOSCheckpointer
) -> AverageWeights | SetAsideAverage:
    """Build the hook for averaged weights, and add the average to the checkpoints."""
    if settings.ema_decay == 0:
        return SetAsideAverage(settings.output_dir)
    averaging = AverageWeights(checkpointer.model, settings.ema_decay, settings.output_dir)
    checkpointer.add_checkpointable("averaged_model", averaging.averaged)
    return averaging


def _check_comparisons(settings: RunSettings, has_metric: bool) -> None:
    """Raise an error or log a line if a setting compares evaluations, but there are none."""
    patience, metric = settings.early_stopping_patience, settings.best_metric
    if patience > 0 and not has_metric:
        key = settings.key("early_stopping_patience")
        text = (
            f"{key} = {patience} compares {metric!r} of evaluations, but the config has no "
            "evaluator or no test set."
        )
        raise InputError(text, key=key, value=patience)
    if settings.eval_period > 0 and metric and not has_metric:
        logger.info(
            "There is no evaluator or no test set: no best weights are kept (model_best.pth)."
        )
    if settings.eval_period == 0 and metric not in ("", RunSettings.best_metric):
        logger.warning(
            "%s = %r keeps no model_best.pth because %s is 0, so that only the final weights are "
            "evaluated.",
            settings.key("best_metric"),
            metric,
            settings.key("eval_period"),
        )


def _evaluate(
    settings: RunSettings,
    parts: RunParts,
    averaged: nn.Module | None,
    evaluate_model: Callable[[nn.Module, str], dict[str, Any]],
) -> dict[str, Any]:
    """Evaluate the model and the averaged weights, whose results are under "ema"."""
    results = {**evaluate_model(parts.trainer.model, settings.output_dir)}
    if averaged is not None:
        logger.info("Evaluating the averaged weights.")
        # A separate folder, so that the detections of the trained weights are not replaced.
        output_dir = os.path.join(settings.output_dir, "ema")
        with preserve_random_state():  # so that training does not depend on EMA_DECAY
            results["ema"] = evaluate_model(averaged, output_dir)
    return results


def _evaluate_model(parts: RunParts, model: nn.Module, output_dir: str) -> dict[str, Any]:
    """Compute the metrics and the validation losses of one model."""
    share_buffers(model)
    results = {} if parts.evaluate is None else {**parts.evaluate(model, output_dir)}
    if parts.compute_validation_losses is not None:
        unwrapped = model.module if isinstance(model, DistributedDataParallel) else model
        results["val_loss"] = parts.compute_validation_losses(unwrapped)
    return results
