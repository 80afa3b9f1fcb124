"""detectron2's DefaultTrainer with the features of FCOS_TRAIN, on CPUs too."""

import logging
import os
import weakref
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from ..checkpoint import FCOSCheckpointer
from ..data.dataset_mapper import FCOSDatasetMapper
from .evaluators import build_evaluator, check_expected_names
from .hooks import RunParts, build_hooks
from .optimizer import build_optimizer
from .processes import share_buffers, wrap_in_ddp
from .resuming import load_or_resume
from .run_loop import RunLoop
from .run_settings import RunSettings
from .step_trainer import StepTrainer, resolve_amp_dtype
from .validation_loss import check_can_validate, compute_validation_losses

__all__ = ["Trainer"]


class Trainer(DefaultTrainer, RunLoop):
    """
    DefaultTrainer with these differences; all else is inherited:

    - several processes on CPUs (detectron2 gives ``device_ids`` to DDP, which a CPU model refuses);
    - SOLVER.AMP.ENABLED on CPUs, and in the type FCOS_TRAIN.AMP_DTYPE;
    - FCOS_TRAIN.OPTIMIZER and DCN_OFFSET_LR_FACTOR;
    - weights are read by ``checkpoint.checkpointer.FCOSCheckpointer``;
    - an image that cannot be used is named (``data.dataset_mapper.FCOSDatasetMapper``);
    - the evaluator is chosen from the dataset's metadata;
    - losses are read every 20 iterations, see ``loss_log.LossLog``;
    - the hooks are those of ``hooks.build_hooks``, with the settings
      ``run_settings.RunSettings``.
    """

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer.__init__ cannot be extended in between: this is its order of construction
        # (detectron2, Apache-2.0) with other parts.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        amp_dtype = None
        if cfg.SOLVER.AMP.ENABLED:
            amp_dtype = resolve_amp_dtype(cfg.FCOS_TRAIN.AMP_DTYPE, cfg.MODEL.DEVICE)

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = wrap_in_ddp(model)
        self._trainer = StepTrainer(model, data_loader, optimizer, amp_dtype=amp_dtype)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = FCOSCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """See ``optimizer.build_optimizer``."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return build_detection_train_loader(
            cfg,
            mapper=FCOSDatasetMapper(cfg, is_train=True),
            # From there a GPU fetches images without the host waiting.
            pin_memory=torch.device(cfg.MODEL.DEVICE).type == "cuda",
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        mapper = FCOSDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return build_evaluator(dataset_name, os.path.join(cfg.OUTPUT_DIR, "inference"))

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """
        Evaluate as DefaultTrainer does, with the same model in every process.

        Raises:
            InputError: TEST.EXPECTED_RESULTS names what the evaluation does not give.
        """
        share_buffers(model)
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            check_expected_names(cfg.TEST.EXPECTED_RESULTS, results)
        return results

    def resume_or_load(self, resume: bool = True) -> None:
        """See ``resuming.load_or_resume``."""
        if load_or_resume(self.checkpointer, self.cfg.MODEL.WEIGHTS, resume=resume):
            self.start_iter = self.iter + 1  # the checkpoint has the last iteration that was done

    def train(self) -> dict[str, Any] | None:  # type: ignore[override]
        """Train as DefaultTrainer does; the results are returned where TEST.EXPECTED_RESULTS is."""
        return DefaultTrainer.train(self)  # whose own super() is RunLoop

    def end_workers(self) -> None:
        """End the workers of the data loader."""
        self._trainer.end_workers()

    def build_hooks(self) -> list[HookBase]:
        """See ``hooks.build_hooks``; with detectron2's TEST.PRECISE_BN."""
        cfg, settings = self.cfg, RunSettings.from_config(self.cfg)
        if settings.validation_loss:
            check_can_validate(cfg)
        parts = RunParts(
            trainer=self._trainer,
            checkpointer=self.checkpointer,
            scheduler=None,  # DefaultTrainer's attribute, which may be replaced until training
            build_writers=self.build_writers,
            evaluate=self._evaluate,
            compute_validation_losses=(
                (lambda model: compute_validation_losses(cfg, model))
                if settings.validation_loss
                else None
            ),
            before_saving=self._build_precise_bn(),
        )
        return build_hooks(settings, parts)

    def _evaluate(self, model: nn.Module, output_dir: str) -> dict[str, Any]:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = output_dir
        results = self.test(cfg, model)
        if model is self.model:
            self._last_eval_results = results  # what DefaultTrainer.train returns
        return results

    def _build_precise_bn(self) -> list[HookBase]:
        """As DefaultTrainer does, with a separate loader."""
        cfg = self.cfg.clone()
        if not (cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model)):
            return []
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # saves memory and time
        loader = self.build_train_loader(cfg)
        num_iter = cfg.TEST.PRECISE_BN.NUM_ITER
        return [hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, num_iter)]
