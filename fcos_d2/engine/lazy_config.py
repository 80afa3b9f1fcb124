"""From a LazyConfig and a command line to a config that a run can start with."""

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import instantiate
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..arguments import FLAG, NOT_NEGATIVE, Arguments, Rule, find_faults, integer, raise_faults
from ..config_checks import find_build_faults
from ..data.dataset_mapper import MAPPER_ARGUMENTS, FCOSDatasetMapper
from ..errors import Collector, InputError
from ..modeling import (
    FCOS,
    BiFPN,
    FCOSAssigner,
    FCOSHead,
    FCOSLosses,
    FCOSPostProcessor,
    Levels,
    TimmBackbone,
)
from ..modeling.assignment.fcos import ASSIGNER_ARGUMENTS
from ..modeling.backbone.bifpn import BIFPN_ARGUMENTS
from ..modeling.backbone.timm_network import TIMM_ARGUMENTS
from ..modeling.backbone.timm_pixels import TimmPixels, pixels_of_network, warn_of_other_pixels
from ..modeling.config_faults import FCOS_ARGUMENTS
from ..modeling.head import HEAD_ARGUMENTS
from ..modeling.levels import LEVELS_ARGUMENTS
from ..modeling.losses.criterion import LOSSES_ARGUMENTS
from ..modeling.postprocessing import POSTPROCESSOR_ARGUMENTS
from .lazy_loading import override, run_config_file
from .preflight import (
    LAZY_KEYS,
    RunPlan,
    check_run_datasets,
    find_run_faults,
    parse_datasets,
    register_datasets,
)
from .run_settings import RUN_ARGUMENTS, RunSettings

__all__ = ["LAZY_RULES", "PART_ARGUMENTS", "load_lazy_config", "prepare_lazy_config"]

_FOR_BOTH = ("model", "train.device", "train.output_dir", "train.init_checkpoint")
_FOR_TRAINING = (
    "dataloader.train",
    "optimizer.params",
    "lr_multiplier",
    "train.max_iter",
    "train.amp.enabled",
    "train.ddp",
    "train.checkpointer",
    "train.eval_period",
    "train.log_period",
)
_FOR_EVALUATION = ("dataloader.test", "dataloader.evaluator")
_USED = ("model", "dataloader", "optimizer", "lr_multiplier", "train")  # files may have more
# What constructors say of their values, for errors that have the keys.
PART_ARGUMENTS: Mapping[Any, Arguments] = {
    FCOS: FCOS_ARGUMENTS,
    FCOSHead: HEAD_ARGUMENTS,
    Levels: LEVELS_ARGUMENTS,
    FCOSAssigner: ASSIGNER_ARGUMENTS,
    FCOSLosses: LOSSES_ARGUMENTS,
    FCOSPostProcessor: POSTPROCESSOR_ARGUMENTS,
    BiFPN: BIFPN_ARGUMENTS,
    TimmBackbone: TIMM_ARGUMENTS,
    FCOSDatasetMapper: MAPPER_ARGUMENTS,
}
# Numbers that training reads itself, where the config has them.
LAZY_RULES: Mapping[str, Rule] = {
    **{f"train.{x}": rule for x, rule in RUN_ARGUMENTS.rules.items() if x != "max_to_keep"},
    "train.max_iter": integer(at_least=1),
    "train.eval_period": integer(at_least=0),
    "train.log_period": integer(at_least=1),
    "train.amp.enabled": FLAG,
    "train.checkpointer.period": integer(at_least=1),
    "train.checkpointer.max_to_keep": integer(at_least=1),
    "dataloader.train.total_batch_size": integer(at_least=1),
    "dataloader.train.num_workers": integer(at_least=0),
    "dataloader.test.num_workers": integer(at_least=0),
    "optimizer.lr": NOT_NEGATIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
}


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
    Run a config file, override its values, check it, and register datasets.

    Args:
        config_file (str): path of a Python file, with what detectron2's lazyconfig_train_net.py
            wants: ``model``, ``dataloader``, ``optimizer``, ``lr_multiplier`` and ``train``.
        overrides (list[str]): KEY=VALUE, as that tool takes them; +KEY=VALUE for a key that is not
            there yet.
        datasets (list[str]): NAME=ANNOTATIONS.json:IMAGES/, for dataloader.*.dataset.names.
        eval_only (bool): what only a training reads need not be there.
        resume (bool): resume from the last checkpoint of train.output_dir, if there is one.
        processes (int): that share the images of a batch.

    Raises:
        InputError: all that is wrong with the config; or else with the data.
    """
    cfg = load_lazy_config(config_file, overrides, eval_only=eval_only, resume=resume)
    plan = _plan_of(cfg, eval_only, resume, processes)
    collect = Collector()
    described = collect(parse_datasets, (), datasets)
    for path, call in _calls(cfg.model):
        if call._target_ is TimmBackbone:
            split = "test" if eval_only else "train"
            collect(_compare_pixels, cfg, f"model.{path}.name", call.name, split)
    values = [] if eval_only else _find_wrong_values(cfg)
    arguments = _find_wrong_arguments(cfg)
    build = [] if arguments else find_build_faults(lambda: _build_for_checks(cfg))
    raise_faults([values, arguments, build, collect.faults, find_run_faults(plan)])
    own = register_datasets(described, plan)
    num_classes = OmegaConf.select(cfg, plan.keys.datasets.num_classes)
    if num_classes is not None:
        check_run_datasets(plan, num_classes, own)
    return cfg


def load_lazy_config(
    config_file: str, overrides: Sequence[str], *, eval_only: bool = False, resume: bool = False
) -> DictConfig:
    """
    Run a config file and override its values; all keys that a run needs are there.

    Where a checkpoint will fill the whole model, networks of timm fetch no weights.

    Args:
        config_file, overrides, eval_only, resume: see ``prepare_lazy_config``.

    Raises:
        InputError: the file cannot be run, or keys or arguments are unknown or missing.
    """
    cfg = run_config_file(config_file)
    collect = Collector()
    try:
        collect(override, cfg, overrides)
        collect(_check_complete, cfg, _FOR_EVALUATION if eval_only else _FOR_TRAINING)
        collect(_check_calls, cfg)
        collect.check()
    except OmegaConfBaseException as error:
        text = f"The config file {config_file}: {error}"
        raise InputError(text, file=config_file) from error
    if _plan_of(cfg, eval_only, resume).relies_on_checkpoint:
        return _without_pretrained(cfg)
    return cfg


def _without_pretrained(cfg: DictConfig) -> DictConfig:
    cfg = copy.deepcopy(cfg)
    for _, call in _calls(cfg.model):
        if call._target_ is TimmBackbone:
            call.pretrained = False
    return cfg


def _plan_of(cfg: DictConfig, eval_only: bool, resume: bool, processes: int = 1) -> RunPlan:
    """Names of datasets are empty where they are not written as in our configs and detectron2's."""
    train_names, test_names = (
        [names] if isinstance(names, str) else list(names or ())
        for names in (OmegaConf.select(cfg, key) for key in LAZY_KEYS.datasets[1:])
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
    )


def _check_complete(cfg: DictConfig, keys: Sequence[str]) -> None:
    missing = [key for key in (*_FOR_BOTH, *keys) if OmegaConf.select(cfg, key) is None]
    if missing:
        raise InputError(
            f"The LazyConfig lacks {', '.join(missing)}. configs/lazy/fcos_R_50_FPN.py has all "
            "that is needed.",
            key=missing[0],
        )


def _calls(cfg: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Key and config of every call, the outer ones first."""
    if isinstance(cfg, DictConfig):
        if "_target_" in cfg:
            yield path, cfg
        for name in map(str, cfg):
            yield from _calls(cfg[name], f"{path}.{name}" if path else name)
    elif isinstance(cfg, ListConfig):
        for index, value in enumerate(cfg):
            yield from _calls(value, f"{path}.{index}")


def _calls_of(cfg: DictConfig, names: Sequence[str]) -> Iterator[tuple[str, DictConfig]]:
    """Those of some names of a config file, where it has them."""
    return (call for name in names if name in cfg for call in _calls(cfg[name], name))


def _check_calls(cfg: DictConfig) -> None:
    """All arguments must be known to what is called, and none that it needs be missing."""
    faults = []
    for path, call in _calls_of(cfg, _USED):
        target = locate(call._target_) if isinstance(call._target_, str) else call._target_
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError):  # some of those that are written in C
            continue
        arguments = {str(name): None for name in call if name != "_target_"}
        if path == "optimizer.params":
            arguments["model"] = None  # training puts it there
        try:
            signature.bind(**arguments)
        except TypeError as error:
            known = ", ".join(signature.parameters)
            text = (
                f"{path} of the LazyConfig calls {getattr(target, '__name__', target)}: {error}. "
                f"Its arguments are: {known}."
            )
            faults.append(InputError(text, key=path))
    raise_faults([faults])


def _build_for_checks(cfg: DictConfig) -> None:
    instantiate(_without_pretrained(cfg).model)


def _find_wrong_arguments(cfg: DictConfig) -> list[InputError]:
    """Of the parts of this project, by the rules of their constructors."""
    faults = []
    for path, call in _calls_of(cfg, ("model", "dataloader")):
        arguments = PART_ARGUMENTS.get(call._target_)
        if arguments is not None:
            rules = {f"{path}.{x}": rule for x, rule in arguments.rules.items() if x in call}
            faults += find_faults(rules, lambda key: OmegaConf.select(cfg, key))
    return faults


def _find_wrong_values(cfg: DictConfig) -> list[InputError]:
    # What must be there was found.
    rules = {x: rule for x, rule in LAZY_RULES.items() if OmegaConf.select(cfg, x) is not None}
    faults = find_faults(rules, lambda key: OmegaConf.select(cfg, key))
    collect = Collector()
    if not faults:
        collect(RunSettings.from_lazy, cfg)
    return faults + collect.faults


def _compare_pixels(cfg: DictConfig, name_key: str, name: str, split: str) -> None:
    """With what timm's weights want, where the config has them as ours have."""
    keys = (f"dataloader.{split}.mapper.image_format", "model.pixel_mean", "model.pixel_std")
    image_format, mean, std = (OmegaConf.select(cfg, key) for key in keys)
    if None not in (image_format, mean, std):
        configured = TimmPixels(image_format, tuple(mean), tuple(std))
        warn_of_other_pixels(name, pixels_of_network(name), configured, name_key, keys)
