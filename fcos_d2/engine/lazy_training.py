"""Training and evaluation from a LazyConfig, like detectron2's tools/lazyconfig_train_net.py."""

import copy
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from detectron2.config import instantiate
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from ..checkpoint import FCOSCheckpointer
from ..errors import InputError
from ..modeling.layers.norms import sync_norms_for_device
from .hooks import RunParts, build_hooks
from .lazy_evaluator import has_evaluation, has_test_set
from .processes import wrap_in_ddp
from .resuming import load_for_evaluation, load_or_resume
from .run_keys import LAZY_KEYS
from .run_settings import RunSettings
from .step_trainer import StepTrainer, resolve_amp_dtype
from .validation_loss import check_model_can_validate, compute_losses_of_dataset
from .writers import build_writers

__all__ = ["evaluate_lazy_config", "load_lazy_training"]

logger = logging.getLogger(__name__)


def load_lazy_training(cfg: DictConfig, *, resume: bool = False) -> Callable[[], None]:
    """
    Build the parts of a training, and load the checkpoint or the weights that it starts from.

    Args:
        cfg (DictConfig): A config from ``lazy_config.prepare_lazy_config``. ``train`` may contain
            the settings of ``run_settings.RunSettings``, such as ``train.ema_decay``.
        resume (bool): Resume from the last checkpoint in train.output_dir, if there is one.

    Returns:
        Callable: The function that trains, like detectron2's tool, with the parts and hooks of
        ``trainer.Trainer``.

    Raises:
        InputError: If weights do not fit the model, settings contradict each other, or a part
            cannot be built.
    """
    train = cfg.train
    settings = RunSettings.from_lazy(cfg)
    model = _build_model(cfg)
    logger.info("Model:\n%s", model)
    if settings.validation_loss:
        _check_can_validate(cfg, model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    data_loader = instantiate(cfg.dataloader.train)
    model = wrap_in_ddp(model, **train.ddp)
    amp_dtype = resolve_amp_dtype("auto", train.device) if train.amp.enabled else None
    trainer = StepTrainer(model, data_loader, optimizer, amp_dtype=amp_dtype)
    checkpointer = FCOSCheckpointer(model, train.output_dir, key=LAZY_KEYS.weights, trainer=trainer)

    def evaluate(model: nn.Module, output_dir: str) -> dict[str, Any]:
        """Compute the metrics of a model."""
        return _evaluate(cfg, model, output_dir)

    def compute_validation_losses(model: nn.Module) -> dict[str, float]:
        """Compute the losses of a model on the test data."""
        return compute_losses_of_dataset(model, _build_validation_loader(cfg))

    parts = RunParts(
        trainer=trainer,
        checkpointer=checkpointer,
        scheduler=instantiate(cfg.lr_multiplier),
        build_writers=lambda: build_writers(train.output_dir, train.max_iter),
        evaluate=evaluate if has_evaluation(cfg) else None,
        compute_validation_losses=compute_validation_losses if settings.validation_loss else None,
    )
    trainer.register_hooks(build_hooks(settings, parts))
    resumes = load_or_resume(
        checkpointer,
        optimizer,
        train.init_checkpoint,
        resume=resume,
        resume_lr=settings.resume_lr,
        keys=LAZY_KEYS,
        exceptions={
            name: f"optimizer.params.{name}"
            for name in ("weight_decay_norm", "weight_decay_bias", "bias_lr_factor")
            if cfg.optimizer.params.get(name) not in (None, 1)
        },
    )
    # A checkpoint stores the last completed iteration.
    return partial(trainer.train, trainer.iter + 1 if resumes else 0, train.max_iter)


def evaluate_lazy_config(cfg: DictConfig, *, resume: bool = False) -> dict[str, Any]:
    """
    Evaluate a checkpoint with dataloader.evaluator on dataloader.test.

    Args:
        cfg (DictConfig): A config from ``lazy_config.prepare_lazy_config``. It names the
            checkpoint in train.init_checkpoint.
        resume (bool): Evaluate the last checkpoint in train.output_dir instead, if there is one.

    Returns:
        dict: Results such as {"bbox": {"AP": ...}}; empty except in the main process.

    Raises:
        InputError: If weights do not fit the model, or a part cannot be built.
    """
    model = _build_model(cfg)
    checkpointer = FCOSCheckpointer(
        model, cfg.train.output_dir, complete=True, key=LAZY_KEYS.weights
    )
    load_for_evaluation(checkpointer, cfg.train.init_checkpoint, resume=resume, keys=LAZY_KEYS)
    return _evaluate(cfg, model, cfg.train.output_dir)


def _build_model(cfg: DictConfig) -> nn.Module:
    """Build the model on its device."""
    model = instantiate(cfg.model)
    sync_norms_for_device(model, cfg.train.device)
    return model.to(cfg.train.device)


def _evaluate(cfg: DictConfig, model: nn.Module, output_dir: str) -> dict[str, Any]:
    """Evaluate a model; evaluators write to ``output_dir/inference``."""
    evaluator = copy.deepcopy(cfg.dataloader.evaluator)
    if output_dir != cfg.train.output_dir:
        for call in evaluator if isinstance(evaluator, ListConfig) else [evaluator]:
            if call.get("output_dir"):
                call.output_dir = os.path.join(output_dir, "inference")
    results = inference_on_dataset(model, instantiate(cfg.dataloader.test), instantiate(evaluator))
    if comm.is_main_process():
        print_csv_format(results)
    return results


def _check_can_validate(cfg: DictConfig, model: nn.Module) -> None:
    """Check that train.validation_loss can be computed."""
    key = "train.validation_loss"
    generator = getattr(model, "proposal_generator", None)
    check_model_can_validate(type(model), type(generator), key)
    if not has_test_set(cfg):
        test_key = LAZY_KEYS.datasets.test
        text = f"{key} = True needs a dataset in {test_key}, which is empty."
        raise InputError(text, key=key, value=True)
    if OmegaConf.select(cfg, "dataloader.test.mapper.is_train") is None:
        text = f"{key} = True needs a dataloader.test whose mapper has the argument is_train."
        raise InputError(text, key=key, value=True)


def _build_validation_loader(cfg: DictConfig) -> Iterable[list[dict[str, Any]]]:
    """Build dataloader.test with a mapper that keeps the annotations."""
    loader = copy.deepcopy(cfg.dataloader.test)
    loader.mapper.is_train = True
    keep_crowd_boxes = OmegaConf.select(cfg, "dataloader.train.mapper.keep_crowd_boxes")
    if keep_crowd_boxes is not None:
        loader.mapper.keep_crowd_boxes = keep_crowd_boxes
    return instantiate(loader)
