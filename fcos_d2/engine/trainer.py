"""The trainer for YAML configs: detectron2's DefaultTrainer with the settings of FCOS_TRAIN."""

import logging
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.logger import setup_logger
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from ..checkpoint import FCOSCheckpointer
from ..data.dataset_mapper import FCOSDatasetMapper
from ..modeling import build_model
from ..test_time_augmentation import build_tta_model
from .evaluators import build_evaluator, check_expected_names, evaluation_tasks
from .hooks import RunParts, build_hooks
from .optimizer import build_optimizer, exceptions_in, offset_parameters
from .optimizer_settings import set_base_lrs
from .processes import share_buffers, wrap_in_ddp
from .resuming import load_or_resume
from .run_loop import RunLoop
from .run_settings import RunSettings
from .step_trainer import StepTrainer, resolve_amp_dtype
from .validation_loss import check_can_validate, compute_validation_losses
from .writers import build_writers

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)

_TTA = "_TTA"  # the end of the names of results with test-time augmentation, as in detectron2


class Trainer(DefaultTrainer, RunLoop):
    """
    The trainer for YAML configs, which is detectron2's DefaultTrainer with some differences.

    - Several processes can train on CPUs (detectron2 passes ``device_ids`` to
      DistributedDataParallel, which is an error on CPUs).
    - SOLVER.AMP.ENABLED works on CPUs, and uses the data type FCOS_TRAIN.AMP_DTYPE.
    - The optimizer is built from FCOS_TRAIN.OPTIMIZER and FCOS_TRAIN.DCN_OFFSET_LR_FACTOR.
    - ``checkpoint.checkpointer.FCOSCheckpointer`` reads weights.
    - Errors name the image that cannot be used (``data.dataset_mapper.FCOSDatasetMapper``).
    - The dataset's metadata selects the evaluator.
    - With TEST.AUG.ENABLED, the final weights are also evaluated with test-time augmentation.
    - Losses are read every 20 iterations; see ``loss_log.LossLog``.
    - The hooks are those of ``hooks.build_hooks``, with the settings in
      ``run_settings.RunSettings``.

    Everything else is inherited.

    Args:
        cfg (CfgNode): A config with the keys of ``add_fcos_config`` and ``add_train_config``.
    """

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer.__init__ does not allow replacing the step trainer or the checkpointer, so
        # this constructor builds all parts, in DefaultTrainer's order (detectron2, Apache-2.0).
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
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the model, and log it."""
        model = build_model(cfg)
        logger.info("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer; see ``optimizer.build_optimizer``."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
        """Build the data loader of DATASETS.TRAIN."""
        return build_detection_train_loader(
            cfg,
            mapper=FCOSDatasetMapper(cfg, is_train=True),
            # Pinned memory can be copied to a GPU without blocking the CPU.
            pin_memory=torch.device(cfg.MODEL.DEVICE).type == "cuda",
        )

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, Any]]]:
        """Build the data loader of a test set."""
        mapper = FCOSDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """
        Build the evaluator of a test set; see ``evaluators.build_evaluator``.

        With several test sets, each has a folder, so that none replaces the detections of another.

        Args:
            cfg (CfgNode): The config.
            dataset_name (str): The test set.
            output_folder (str | None): Folder of the detections; None means OUTPUT_DIR/inference.
        """
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        if len(cfg.DATASETS.TEST) > 1:
            folder = os.path.join(folder, dataset_name)
        return build_evaluator(
            dataset_name,
            folder,
            evaluation_tasks(cfg),
            detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        )

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """
        Evaluate like DefaultTrainer, with the same model in every process.

        Args:
            cfg (CfgNode): The config.
            model (nn.Module): The model to evaluate.
            evaluators (DatasetEvaluator or Sequence): One for each dataset in DATASETS.TEST; None
                builds them with ``build_evaluator``.

        Returns:
            dict: Results by metric, or, with several datasets, by dataset.

        Raises:
            InputError: If TEST.EXPECTED_RESULTS names a metric that the evaluation does not have.
        """
        share_buffers(model)
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            check_expected_names(_expected_results(cfg, augmented=False), results)
        return results

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """
        Evaluate with test-time augmentation, as the Trainer of detectron2's tools/train_net.py.

        The views are made from the original images, not from those of INPUT.MIN_SIZE_TEST. The
        evaluators write to OUTPUT_DIR/inference_TTA.

        Args:
            cfg (CfgNode): The config, with the settings in TEST.AUG.
            model (nn.Module): The model to evaluate.

        Returns:
            dict: Results as those of ``test``, whose names end with "_TTA", such as "bbox_TTA".

        Raises:
            InputError: If the model has no test-time augmentation, or TEST.EXPECTED_RESULTS names a
                metric that the evaluation does not have.
        """
        augmented = build_tta_model(cfg, model)
        logger.info("Evaluating with test-time augmentation.")
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        original_size = cfg.clone()
        original_size.defrost()
        original_size.INPUT.MIN_SIZE_TEST = 0  # which resizes nothing
        plain = cls.test(original_size, augmented, evaluators)
        results = {f"{name}{_TTA}": x for name, x in plain.items()}
        if comm.is_main_process():
            check_expected_names(_expected_results(cfg, augmented=True), results)
        return results

    @classmethod
    def test_all(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """Return the results of ``test`` and, if TEST.AUG.ENABLED, those of ``test_with_TTA``."""
        results = cls.test(cfg, model)
        if cfg.TEST.AUG.ENABLED:
            results = {**results, **cls.test_with_TTA(cfg, model)}
        return results

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last checkpoint or MODEL.WEIGHTS; see ``resuming.load_or_resume``."""
        resumes = load_or_resume(
            self.checkpointer,
            self.optimizer,
            self.cfg.MODEL.WEIGHTS,
            resume=resume,
            resume_lr=self.cfg.FCOS_TRAIN.RESUME_LR,
            exceptions=exceptions_in(self.cfg),
            scaled=offset_parameters(self.model),
        )
        if resumes:
            self.start_iter = self.iter + 1  # a checkpoint has the last completed iteration
            set_base_lrs(self.scheduler, self.optimizer)

    def train(self) -> dict[str, Any] | None:  # type: ignore[override]
        """Train like DefaultTrainer; return the results if TEST.EXPECTED_RESULTS is not empty."""
        return DefaultTrainer.train(self)  # which calls RunLoop.train

    def build_writers(self) -> list[EventWriter]:
        """Build the event writers; see ``writers.build_writers``."""
        return build_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def end_workers(self) -> None:
        """End the workers of the data loader."""
        self._trainer.end_workers()

    def build_hooks(self) -> list[HookBase]:
        """Build the hooks of ``hooks.build_hooks``, and that of TEST.PRECISE_BN."""
        cfg, settings = self.cfg, RunSettings.from_config(self.cfg)
        if settings.validation_loss:
            check_can_validate(cfg)

        def compute_losses(model: nn.Module) -> Mapping[str, Any]:
            """Compute the losses of a model on DATASETS.TEST."""
            return compute_validation_losses(cfg, model)

        parts = RunParts(
            trainer=self._trainer,
            checkpointer=self.checkpointer,
            scheduler=None,  # the LR hook then uses trainer.scheduler, which users may replace
            build_writers=self.build_writers,
            evaluate=partial(self._evaluate, self.test),
            evaluate_with_tta=(
                partial(self._evaluate, self.test_with_TTA) if cfg.TEST.AUG.ENABLED else None
            ),
            compute_validation_losses=compute_losses if settings.validation_loss else None,
            before_saving=self._build_precise_bn(),
        )
        return build_hooks(settings, parts)

    def _evaluate(
        self,
        test: Callable[[CfgNode, nn.Module], dict[str, Any]],
        model: nn.Module,
        output_dir: str,
    ) -> dict[str, Any]:
        """Compute the metrics of a model; evaluators write to an output folder."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = output_dir
        results = test(cfg, model)
        if model is self.model:  # DefaultTrainer.train returns the last results
            self._last_eval_results = {**getattr(self, "_last_eval_results", {}), **results}
        return results

    def _build_precise_bn(self) -> list[HookBase]:
        """Build the hook of TEST.PRECISE_BN with a separate data loader, like DefaultTrainer."""
        cfg = self.cfg.clone()
        if not (cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model)):
            return []
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # to save memory and time
        loader = self.build_train_loader(cfg)
        num_iter = cfg.TEST.PRECISE_BN.NUM_ITER
        return [hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, num_iter)]


def _expected_results(cfg: CfgNode, *, augmented: bool) -> list[Sequence[Any]]:
    """Return the entries of TEST.EXPECTED_RESULTS with, or without, test-time augmentation."""
    return [
        expected
        for expected in cfg.TEST.EXPECTED_RESULTS
        if (cfg.TEST.AUG.ENABLED and expected[0].endswith(_TTA)) == augmented
    ]
