"""detectron2's DefaultTrainer, working on CPUs too, with an evaluator and a best checkpoint."""

import logging
import os
import weakref
from typing import Any

import torch
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer, SimpleTrainer, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.layers import FrozenBatchNorm2d
from detectron2.solver import build_optimizer, get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from ..checkpoint import FCOSCheckpointer
from ..config_rules import check_value
from ..data.dataset_mapper import FCOSDatasetMapper
from ..errors import InputError
from .autocast_trainer import AutocastTrainer, resolve_amp_dtype
from .best_checkpoint import KeepBest
from .evaluators import build_evaluator

__all__ = [
    "Trainer",
    "check_optimizer_state",
    "share_buffers",
    "warn_of_frozen_random_weights",
    "wrap_in_ddp",
]

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """
    What differs from DefaultTrainer, all else being inherited:

    - several processes on CPUs (detectron2 hands ``device_ids`` to DDP, which a CPU model refuses);
    - SOLVER.AMP.ENABLED on CPUs, and in the type FCOS_TRAIN.AMP_DTYPE;
    - FCOS_TRAIN.OPTIMIZER and FCOS_TRAIN.CHANNELS_LAST;
    - weights are read by :class:`..checkpoint.checkpointer.FCOSCheckpointer`;
    - an image that cannot be used is named (:class:`..data.dataset_mapper.FCOSDatasetMapper`);
    - the evaluator is chosen from the dataset's metadata;
    - the checkpoint with the best FCOS_TRAIN.BEST_METRIC is kept as ``model_best.pth``.
    """

    def __init__(self, cfg: Any) -> None:
        # DefaultTrainer's own __init__ leaves no place to step in between: this is its order of
        # construction (detectron2, Apache-2.0) with another wrapping and another trainer.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = wrap_in_ddp(model)
        self._trainer = (
            AutocastTrainer(
                model,
                data_loader,
                optimizer,
                cfg.MODEL.DEVICE,
                resolve_amp_dtype(cfg.FCOS_TRAIN.AMP_DTYPE, cfg.MODEL.DEVICE),
            )
            if cfg.SOLVER.AMP.ENABLED
            else SimpleTrainer(model, data_loader, optimizer)
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = FCOSCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: Any) -> nn.Module:
        """detectron2's build_model, in the memory format that FCOS_TRAIN.CHANNELS_LAST asks for."""
        model = super().build_model(cfg)
        if cfg.FCOS_TRAIN.CHANNELS_LAST:
            model = model.to(memory_format=torch.channels_last)
        return model

    @classmethod
    def build_optimizer(cls, cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
        """
        The optimizer FCOS_TRAIN.OPTIMIZER with the settings of SOLVER.

        Raises:
            InputError: an unknown name.
        """
        name = cfg.FCOS_TRAIN.OPTIMIZER
        check_value("FCOS_TRAIN.OPTIMIZER", name)
        if name == "SGD":
            return build_optimizer(cfg, model)
        # The groups of parameters are those that detectron2 makes for SGD.
        groups = get_default_optimizer_params(
            model,
            base_lr=cfg.SOLVER.BASE_LR,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
            weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        )
        optimizer_class = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
        # Fused: one kernel for all groups, of which there is one a parameter. But then a gradient
        # scaler leaves the gradients scaled until the step, and clipping would see them so.
        fused = not cfg.SOLVER.CLIP_GRADIENTS.ENABLED
        return optimizer_class(
            groups, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY, fused=fused
        )

    @classmethod
    def build_train_loader(cls, cfg: Any) -> Any:
        return build_detection_train_loader(cfg, mapper=FCOSDatasetMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: Any, dataset_name: str) -> Any:
        mapper = FCOSDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """
        DefaultTrainer's.

        Raises:
            InputError: the optimizer's state is that of another optimizer or of other weights.
        """
        check_optimizer_state(
            state_dict["_trainer"]["optimizer"],
            self._trainer.optimizer,
            "OUTPUT_DIR",
            "Leave FCOS_TRAIN.OPTIMIZER, SOLVER and MODEL as they were (OUTPUT_DIR/config.yaml), "
            "or start anew from its weights: MODEL.WEIGHTS, without --resume.",
        )
        super().load_state_dict(state_dict)

    def resume_or_load(self, resume: bool = True) -> None:
        """DefaultTrainer's, with a warning where frozen layers have random weights."""
        super().resume_or_load(resume)
        if not (self.cfg.MODEL.WEIGHTS or (resume and self.checkpointer.has_checkpoint())):
            warn_of_frozen_random_weights(self.checkpointer.model)

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> DatasetEvaluator:
        return build_evaluator(dataset_name, os.path.join(cfg.OUTPUT_DIR, "inference"))

    @classmethod
    def test(cls, cfg: Any, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """DefaultTrainer's, on the same model in every process."""
        share_buffers(model)
        return super().test(cfg, model, evaluators)

    def build_hooks(self) -> list[Any]:
        """DefaultTrainer's hooks, and one that keeps the best checkpoint."""
        all_hooks = super().build_hooks()
        metric, period = self.cfg.FCOS_TRAIN.BEST_METRIC, self.cfg.TEST.EVAL_PERIOD
        if metric and period > 0 and comm.is_main_process():
            best = KeepBest(period, self.model, self.cfg.OUTPUT_DIR, metric)
            # After the evaluation, whose result it reads, and before the writers.
            is_eval = [isinstance(hook, hooks.EvalHook) for hook in all_hooks]
            all_hooks.insert(is_eval.index(True) + 1, best)
        return all_hooks


def check_optimizer_state(
    saved: dict[str, Any], optimizer: torch.optim.Optimizer, folder_key: str, advice: str
) -> None:
    """
    Args:
        saved (dict): an optimizer's state dict.
        optimizer (Optimizer): that is to take it over.
        folder_key (str): of the config, that names the checkpoint's folder.
        advice (str): what to do where it cannot.

    Raises:
        InputError: the state is that of another optimizer or of other weights.
    """

    def shapes(groups: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        # A scheduler adds initial_lr, and may not have been there yet.
        return [(sorted({*group, "initial_lr"}), len(group["params"])) for group in groups]

    if shapes(saved["param_groups"]) != shapes(optimizer.state_dict()["param_groups"]):
        raise InputError(
            "--resume goes on with the optimizer that the training was started with, but "
            f"{folder_key}'s checkpoint has the state of another one. {advice}"
        )


def share_buffers(model: nn.Module) -> None:
    """
    Give every process the buffers of the main one: each has seen other images, so the running
    statistics of its batch norms differ from those that the main process saves.
    """
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def warn_of_frozen_random_weights(model: nn.Module, key: str = "MODEL.WEIGHTS") -> None:
    """
    Say so if layers that no checkpoint has filled will not learn either.

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
            key, frozen_norms, frozen_weights, key,
        )  # fmt: skip


def wrap_in_ddp(model: nn.Module, **kwargs: Any) -> nn.Module:
    """
    The model in DistributedDataParallel if there are several processes, on any device.

    Args:
        model (nn.Module): on its device.
        kwargs: those of detectron2's create_ddp_model; buffers are not broadcast by default.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    placement = {"device_ids": None} if on_cpu else {}
    return create_ddp_model(model, **{"broadcast_buffers": False, **placement, **kwargs})
