"""Functions that load and check a LazyConfig, for training or evaluation."""

import copy
from collections.abc import Sequence

from detectron2.config import instantiate
from detectron2.data import DatasetMapper
from detectron2.data.transforms import Augmentation
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ..arguments import is_list, raise_faults
from ..config_checks import build_for_checks, find_build_faults
from ..errors import Collector, InputError
from ..modeling import TimmBackbone
from .box_coverage import warn_of_boxes_without_location
from .lazy_evaluator import check_evaluator
from .lazy_loading import override, run_config_file
from .lazy_rules import (
    check_calls,
    check_complete,
    check_pixel_statistics,
    find_calls,
    find_wrong_arguments,
    find_wrong_values,
)
from .preflight import RunPlan, find_run_faults
from .run_datasets import check_run_datasets, parse_datasets, register_datasets
from .run_keys import LAZY_KEYS
from .trained_classes import with_trained_classes

__all__ = ["load_lazy_config", "prepare_lazy_config"]


def prepare_lazy_config(
    config_file: str,
    overrides: Sequence[str],
    datasets: Sequence[str] = (),
    *,
    eval_only: bool = False,
    resume: bool = False,
    processes: int = 1,
) -> DictConfig:
    """
    Load a LazyConfig, check it, and register its datasets.

    Args:
        config_file (str): Path of a Python file that defines what detectron2's
            lazyconfig_train_net.py needs: ``model``, ``dataloader``, ``optimizer``,
            ``lr_multiplier`` and ``train``.
        overrides (list[str]): KEY=VALUE, as in that tool, or +KEY=VALUE for a new key.
        datasets (list[str]): NAME=ANNOTATIONS.json:IMAGES/, to use in dataloader.*.dataset.names.
        eval_only (bool): Don't require the keys that only training reads.
        resume (bool): Resume from the last checkpoint in train.output_dir, if there is one.
        processes (int): Number of processes that share the images of a batch.

    Raises:
        InputError: If there are errors in the config or the data. The message lists all errors in
            the config or, if it has none, all errors in the data.
    """
    cfg = load_lazy_config(config_file, overrides, eval_only=eval_only, resume=resume)
    plan = _build_plan(cfg, eval_only, resume, processes)
    num_classes = OmegaConf.select(cfg, plan.keys.datasets.num_classes)
    plan = with_trained_classes(plan, num_classes)
    collect = Collector()
    descriptions = collect(parse_datasets, (), datasets)
    for path, call in find_calls(cfg.model):
        if call._target_ is TimmBackbone:
            split = "test" if eval_only else "train"
            collect(check_pixel_statistics, cfg, f"model.{path}.name", call.name, split)
    values = [] if eval_only else find_wrong_values(cfg)
    arguments = find_wrong_arguments(cfg)
    build = [] if arguments else find_build_faults(lambda: _build_model_for_checks(cfg))
    raise_faults([values, arguments, build, collect.faults, find_run_faults(plan, descriptions)])
    registered = register_datasets(descriptions, plan)
    if num_classes is not None:
        check_run_datasets(plan, num_classes, registered)
    model = None if eval_only else build_for_checks(lambda: _build_model_for_checks(cfg))
    check_evaluator(cfg, plan, registered, model)
    if not eval_only:
        augmentations = _find_augmentations(cfg)
        if augmentations is not None:
            warn_of_boxes_without_location(model, augmentations, plan, registered)
    return cfg


def load_lazy_config(
    config_file: str, overrides: Sequence[str], *, eval_only: bool = False, resume: bool = False
) -> DictConfig:
    """
    Run a config file, override its values, and check that it has all keys that a run needs.

    If a checkpoint will fill the whole model, networks of timm don't load pretrained weights.

    Args:
        config_file (str): See ``prepare_lazy_config``.
        overrides (list[str]): See ``prepare_lazy_config``.
        eval_only (bool): Don't require the keys that only training reads.
        resume (bool): Resume from the last checkpoint in train.output_dir, if there is one.

    Raises:
        InputError: If the file cannot be run, or if keys or arguments are unknown or missing.
    """
    cfg = run_config_file(config_file)
    collect = Collector()
    try:
        collect(override, cfg, overrides)
        collect(check_complete, cfg, eval_only)
        collect(check_calls, cfg)
        collect.check()
    except OmegaConfBaseException as error:
        text = f"The config file {config_file} has an error: {error}"
        raise InputError(text, file=config_file) from error
    if _build_plan(cfg, eval_only, resume).relies_on_checkpoint:
        return _without_pretrained(cfg)
    return cfg


def _find_augmentations(cfg: DictConfig) -> list[Augmentation] | None:
    """Return the augmentations of training, if the mapper is detectron2's or a subclass of it."""
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper")
    target = mapper.get("_target_") if isinstance(mapper, DictConfig) else None
    if not (isinstance(target, type) and issubclass(target, DatasetMapper)):
        return None
    return instantiate(mapper.augmentations)


def _without_pretrained(cfg: DictConfig) -> DictConfig:
    """Return a copy of the config in which networks of timm don't load pretrained weights."""
    cfg = copy.deepcopy(cfg)
    for _, call in find_calls(cfg.model):
        if call._target_ is TimmBackbone:
            call.pretrained = False
    return cfg


def _build_plan(cfg: DictConfig, eval_only: bool, resume: bool, processes: int = 1) -> RunPlan:
    """
    Collect what the config and the command line say about the run.

    Dataset names are empty if the config has them under other keys than our configs and
    detectron2's.
    """
    keys = LAZY_KEYS.datasets
    drop_classes, class_names = (
        OmegaConf.select(cfg, key) for key in (keys.drop_classes, keys.class_names)
    )
    train_names, test_names = (
        [names] if isinstance(names, str) else list(names or ())
        for names in (OmegaConf.select(cfg, key) for key in (keys.train, keys.test))
    )
    return RunPlan(
        LAZY_KEYS,
        device=cfg.train.device,
        weights=cfg.train.init_checkpoint,
        output_dir=cfg.train.output_dir,
        batch_size=OmegaConf.select(cfg, LAZY_KEYS.batch_size),
        train_names=train_names,
        test_names=test_names,
        eval_only=eval_only,
        resume=resume,
        processes=processes,
        trained_classes=list(class_names) if eval_only and is_list(class_names) else (),
        drop_classes=list(drop_classes) if is_list(drop_classes) else (),  # checked later
        detections_per_image=OmegaConf.select(cfg, keys.detections_per_image) or 100,
        skip_unreadable_images=bool(OmegaConf.select(cfg, LAZY_KEYS.skip_unreadable_images)),
        keep_crowd_boxes=bool(OmegaConf.select(cfg, "dataloader.train.mapper.keep_crowd_boxes")),
        uses_masks=bool(OmegaConf.select(cfg, keys.uses_masks)),
        has_mask_head=OmegaConf.select(cfg, "model.roi_heads.mask_head") is not None,
        mask_format=OmegaConf.select(cfg, keys.mask_format) or "polygon",
        uses_keypoints=bool(OmegaConf.select(cfg, keys.uses_keypoints)),
        kpt_oks_sigmas=OmegaConf.select(cfg, keys.kpt_oks_sigmas) or (),
        validation_loss=bool(cfg.train.get("validation_loss")),
    )


def _build_model_for_checks(cfg: DictConfig) -> nn.Module:
    """Build the model without pretrained weights."""
    return instantiate(_without_pretrained(cfg).model)
