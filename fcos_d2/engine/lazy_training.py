"""Training and evaluating from a LazyConfig, as detectron2's tools/lazyconfig_train_net.py does."""

import logging
from typing import Any

from detectron2.config import instantiate
from detectron2.engine import HookBase, SimpleTrainer, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from ..checkpoint import FCOSCheckpointer
from ..modeling.layers.norms import sync_norms_for_device
from .autocast_trainer import AutocastTrainer, resolve_amp_dtype
from .diagnostics import LogDiagnostics
from .trainer import (
    check_optimizer_state,
    share_buffers,
    warn_of_frozen_random_weights,
    wrap_in_ddp,
)

__all__ = ["evaluate_lazy_config", "train_lazy_config"]

logger = logging.getLogger(__name__)

_WEIGHTS_KEY = "train.init_checkpoint"


def train_lazy_config(cfg: DictConfig, *, resume: bool = False) -> None:
    """
    What detectron2's tool does, and like :class:`.trainer.Trainer` on CPUs, in several processes
    and with autocast too; weights are read by :class:`..checkpoint.checkpointer.FCOSCheckpointer`.

    Args:
        cfg (DictConfig): of :func:`.lazy_config.prepare_lazy_config`.
        resume (bool): go on from the last checkpoint of train.output_dir, if there is one.

    Raises:
        InputError: weights that do not fit, or what cannot be built.
    """
    train = cfg.train
    model = _build_model(cfg)
    logger.info("Model:\n%s", model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    data_loader = instantiate(cfg.dataloader.train)
    model = wrap_in_ddp(model, **train.ddp)
    if train.amp.enabled:
        dtype = resolve_amp_dtype("auto", train.device)
        trainer = AutocastTrainer(model, data_loader, optimizer, train.device, dtype)
    else:
        trainer = SimpleTrainer(model, data_loader, optimizer)
    checkpointer = FCOSCheckpointer(
        model, train.output_dir, key=_WEIGHTS_KEY, trainer=_CheckedTrainer(trainer)
    )
    trainer.register_hooks(_build_hooks(cfg, model, checkpointer))
    resumes = resume and checkpointer.has_checkpoint()
    checkpointer.resume_or_load(train.init_checkpoint, resume=resume)
    if not (train.init_checkpoint or resumes):
        warn_of_frozen_random_weights(checkpointer.model, _WEIGHTS_KEY)
    # The checkpoint has the iteration that was done last.
    trainer.train(trainer.iter + 1 if resumes else 0, train.max_iter)


def evaluate_lazy_config(cfg: DictConfig, *, resume: bool = False) -> dict[str, Any]:
    """
    Evaluate a checkpoint with dataloader.evaluator on dataloader.test.

    Args:
        cfg (DictConfig): of :func:`.lazy_config.prepare_lazy_config`; train.init_checkpoint is the
            checkpoint.
        resume (bool): take the last checkpoint of train.output_dir, if there is one.

    Returns:
        dict: the evaluator's, such as {"bbox": {"AP": ...}}; empty but in the main process.

    Raises:
        InputError: weights that do not fit, or what cannot be built.
    """
    model = _build_model(cfg)
    checkpointer = FCOSCheckpointer(model, cfg.train.output_dir, complete=True, key=_WEIGHTS_KEY)
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    return _evaluate(cfg, model)


def _build_model(cfg: DictConfig) -> nn.Module:
    model = instantiate(cfg.model)
    sync_norms_for_device(model, cfg.train.device)
    return model.to(cfg.train.device)


class _CheckedTrainer:
    """What is saved of a trainer, and taken over only by the same optimizer."""

    def __init__(self, trainer: SimpleTrainer) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        return self._trainer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check_optimizer_state(
            state_dict["optimizer"],
            self._trainer.optimizer,
            "train.output_dir",
            "Leave optimizer and model as they were, or start anew from its weights: "
            f"{_WEIGHTS_KEY}=..., without --resume.",
        )
        self._trainer.load_state_dict(state_dict)


def _evaluate(cfg: DictConfig, model: nn.Module) -> dict[str, Any]:
    share_buffers(model)
    results = inference_on_dataset(
        model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    )
    if comm.is_main_process():
        print_csv_format(results)
    return results


def _build_hooks(
    cfg: DictConfig, model: nn.Module, checkpointer: FCOSCheckpointer
) -> list[HookBase]:
    """Those of detectron2's tool, in its order, behind our own."""
    train = cfg.train
    all_hooks = [
        LogDiagnostics(model),
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
    ]
    if comm.is_main_process():
        all_hooks.append(hooks.PeriodicCheckpointer(checkpointer, **train.checkpointer))
    if "evaluator" in cfg.dataloader:
        all_hooks.append(hooks.EvalHook(train.eval_period, lambda: _evaluate(cfg, model)))
    if comm.is_main_process():
        writers = default_writers(train.output_dir, train.max_iter)
        all_hooks.append(hooks.PeriodicWriter(writers, period=train.log_period))
    return all_hooks
