"""detectron2's DefaultTrainer, working on CPUs too, with an evaluator and a best checkpoint."""

import logging
import os
import weakref
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer, SimpleTrainer, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from ..checkpoint import FCOSCheckpointer
from ..config import add_train_config
from ..data.dataset_mapper import FCOSDatasetMapper
from ..errors import InputError
from .autocast_trainer import AutocastTrainer, resolve_amp_dtype
from .best_checkpoint import KeepBest
from .diagnostics import LogDiagnostics
from .evaluators import build_evaluator, check_expected_names
from .optimizer import build_optimizer
from .random_state import random_state_kept
from .validation_loss import check_can_validate, compute_validation_losses
from .weight_averaging import AverageWeights, SetAsideAverage

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
    - FCOS_TRAIN.OPTIMIZER and DCN_OFFSET_LR_FACTOR;
    - weights are read by :class:`..checkpoint.checkpointer.FCOSCheckpointer`;
    - an image that cannot be used is named (:class:`..data.dataset_mapper.FCOSDatasetMapper`);
    - the evaluator is chosen from the dataset's metadata;
    - the checkpoint with the best FCOS_TRAIN.BEST_METRIC is kept as ``model_best.pth``;
    - FCOS_TRAIN.EMA_DECAY averages the weights; the average is evaluated and saved besides;
    - FCOS_TRAIN.VALIDATION_LOSS computes the losses on DATASETS.TEST at every evaluation;
    - what :class:`.diagnostics.LogDiagnostics` logs.
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
        self.averaging = None
        if cfg.FCOS_TRAIN.EMA_DECAY > 0:
            self.averaging = AverageWeights(
                self.checkpointer.model, cfg.FCOS_TRAIN.EMA_DECAY, cfg.OUTPUT_DIR
            )
            self.checkpointer.add_checkpointable("averaged_model", self.averaging.averaged)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_optimizer(cls, cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
        """See :func:`.optimizer.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: Any) -> Any:
        return build_detection_train_loader(
            cfg,
            mapper=FCOSDatasetMapper(cfg, is_train=True),
            # From there a GPU fetches images by itself, while the host goes on.
            pin_memory=torch.device(cfg.MODEL.DEVICE).type == "cuda",
        )

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
        """
        DefaultTrainer's, with a warning where frozen layers have random weights, or where averaged
        weights are not taken over.
        """
        unused = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        resumes = resume and self.checkpointer.has_checkpoint()
        if resumes:
            self.start_iter = self.iter + 1  # the checkpoint has the iteration that was done last
            if "averaged_model" in unused:
                logger.warning(
                    "The checkpoint that training goes on from has averaged weights, which end "
                    "here: FCOS_TRAIN.EMA_DECAY is 0."
                )
        elif not self.cfg.MODEL.WEIGHTS:
            warn_of_frozen_random_weights(self.checkpointer.model)

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> DatasetEvaluator:
        return build_evaluator(dataset_name, os.path.join(cfg.OUTPUT_DIR, "inference"))

    @classmethod
    def test(cls, cfg: Any, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """
        DefaultTrainer's, on the same model in every process.

        Raises:
            InputError: TEST.EXPECTED_RESULTS names what the evaluation does not give.
        """
        share_buffers(model)
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            check_expected_names(cfg.TEST.EXPECTED_RESULTS, results)
        return results

    def build_hooks(self) -> list[Any]:
        """DefaultTrainer's hooks, and those of FCOS_TRAIN."""
        all_hooks = super().build_hooks()
        # After the evaluation, and before the writers.
        after_eval = 1 + [isinstance(hook, hooks.EvalHook) for hook in all_hooks].index(True)
        all_hooks[after_eval:after_eval] = [*self._build_evaluations(), self._build_keep_best()]
        averaging = self.averaging or SetAsideAverage(self.cfg.OUTPUT_DIR)
        return [averaging, LogDiagnostics(self.model), *all_hooks]

    def _build_evaluations(self) -> list[hooks.EvalHook]:
        """Those that come besides DefaultTrainer's, at the same times."""
        functions: list[Callable[[], dict[str, Any]]] = []
        if self.averaging is not None:
            functions.append(self._test_averaged)
        if self.cfg.FCOS_TRAIN.VALIDATION_LOSS:
            check_can_validate(self.cfg)
            functions.append(self._validate)
        return [hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, function) for function in functions]

    def _test_averaged(self) -> dict[str, Any]:
        assert self.averaging is not None
        logger.info("Evaluating the averaged weights (FCOS_TRAIN.EMA_DECAY).")
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "ema")  # keeps the raw weights' detections
        with random_state_kept():  # so that the average changes nothing in training
            return {"ema": self.test(cfg, self.averaging.averaged.module)}

    def _validate(self) -> dict[str, Any]:
        # After the evaluations, which gave all processes the same running statistics.
        results: dict[str, Any] = {
            "val_loss": compute_validation_losses(self.cfg, self.checkpointer.model)
        }
        if self.averaging is not None:
            averaged = self.averaging.averaged.module
            results["ema"] = {"val_loss": compute_validation_losses(self.cfg, averaged)}
        return results

    def _build_keep_best(self) -> KeepBest | None:
        metric, period = self.cfg.FCOS_TRAIN.BEST_METRIC, self.cfg.TEST.EVAL_PERIOD
        model = self.checkpointer.model
        if metric.startswith("ema/"):
            if self.averaging is None:
                raise InputError(
                    f"FCOS_TRAIN.BEST_METRIC = {metric!r} is of averaged weights, but there are "
                    "none: FCOS_TRAIN.EMA_DECAY is 0."
                )
            model = self.averaging.averaged.module
        defaults = CfgNode()
        add_train_config(defaults)
        if period == 0 and metric not in ("", defaults.FCOS_TRAIN.BEST_METRIC):
            logger.warning(
                "FCOS_TRAIN.BEST_METRIC = %r keeps no model_best.pth, as TEST.EVAL_PERIOD is 0: "
                "only the final weights are evaluated. Set TEST.EVAL_PERIOD.", metric,
            )  # fmt: skip
        if not metric or period == 0 or not comm.is_main_process():
            return None
        return KeepBest(period, model, self.cfg.OUTPUT_DIR, metric)


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

    Raises:
        InputError: parts of the model never get a gradient, for which the others would wait.
    """
    untrained_maps = getattr(model, "untrained_maps", [])
    if comm.get_world_size() > 1 and untrained_maps:
        raise InputError(
            f"The backbone makes {untrained_maps}, which no level of the head uses, and several "
            "processes cannot train what never gets a gradient. Add them to "
            "MODEL.FCOS.IN_FEATURES, or make fewer: MODEL.FPN.IN_FEATURES and "
            "MODEL.FCOS.TOP_LEVELS say which there are (in a LazyConfig: head_in_features, and "
            "in_features and top_block of the backbone)."
        )
    on_cpu = next(model.parameters()).device.type == "cpu"
    placement = {"device_ids": None} if on_cpu else {}
    return create_ddp_model(model, **{"broadcast_buffers": False, **placement, **kwargs})
