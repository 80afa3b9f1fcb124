"""The check of the evaluator of a LazyConfig."""

from collections.abc import Mapping

from detectron2.evaluation import COCOEvaluator
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from ..data.coco import CheckedDataset
from ..errors import InputError
from ..modeling import FCOS
from .evaluators import build_evaluator
from .metric_names import check_can_stop_early, resolve_best_metric
from .preflight import RunPlan
from .run_datasets import find_unscored
from .run_keys import LAZY_KEYS
from .run_settings import RunSettings
from .validation_loss import known_losses

__all__ = ["check_evaluator", "has_evaluation", "has_test_set"]


def has_test_set(cfg: DictConfig) -> bool:
    """Return whether a LazyConfig has a test set, or names it under another key than ours."""
    names = OmegaConf.select(cfg, LAZY_KEYS.datasets.test)
    return not (isinstance(names, ListConfig) and not names)


def has_evaluation(cfg: DictConfig) -> bool:
    """Return whether a LazyConfig has an evaluator and a test set."""
    return bool(cfg.dataloader.get("evaluator")) and has_test_set(cfg)


def check_evaluator(
    cfg: DictConfig,
    plan: RunPlan,
    registered: Mapping[str, CheckedDataset],
    model: nn.Module | None,
) -> None:
    """
    Check that there is one test set, or none in a training, and the metric train.best_metric.

    Evaluators of other projects and lists of evaluators are not checked.

    Args:
        cfg (DictConfig): A LazyConfig.
        plan (RunPlan): Names the test sets.
        registered (dict): The result of ``register_datasets``.
        model (nn.Module | None): The model, whose weights are not used; None if it is unknown.

    Raises:
        InputError: If an evaluation has no test set, if there are several, or if there will be no
            such metric.
    """
    if not has_test_set(cfg):
        if plan.eval_only:
            key = plan.keys.datasets.test
            text = f"{key} is empty, so there is nothing to evaluate on. Name a dataset there."
            raise InputError(text, key=key, value=[])
        return
    evaluator = OmegaConf.select(cfg, "dataloader.evaluator")
    target = evaluator.get("_target_") if isinstance(evaluator, DictConfig) else None
    is_coco = isinstance(target, type) and issubclass(target, COCOEvaluator)
    if not (target is build_evaluator or is_coco):
        return
    name, key = evaluator.get("dataset_name"), "dataloader.evaluator.dataset_name"
    if isinstance(name, ListConfig):
        raise InputError(
            f"{key} = {list(name)} must be one name: a LazyConfig is evaluated on one test set. "
            f"Set {plan.keys.datasets.test} to one name, and evaluate each of the others with "
            "--eval-only.",
            key=key,
            value=list(name),
        )
    metric = cfg.train.get("best_metric", RunSettings.best_metric)
    if metric and name in plan.test_names and not plan.eval_only and cfg.train.eval_period > 0:
        is_fcos = isinstance(cfg.model._target_, type) and issubclass(cfg.model._target_, FCOS)
        tasks = evaluator.get("tasks") or (["bbox"] if is_fcos else ["bbox", "segm", "keypoints"])
        unscored = find_unscored([name], registered)
        patience = cfg.train.get("early_stopping_patience", 0)
        check_can_stop_early(patience, "train.early_stopping_patience", [name], unscored)
        resolve_best_metric(
            metric,
            [name],
            tasks,
            "train.best_metric",
            losses=known_losses(model),
            unscored=unscored,
        )
