"""Functions that load and check a LazyConfig, for training or evaluation."""

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence

from detectron2.config import instantiate
from detectron2.data import DatasetMapper
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ..arguments import (
    FLAG,
    NOT_NEGATIVE,
    Arguments,
    Rule,
    find_faults,
    integer,
    is_list,
    raise_faults,
)
from ..config_checks import build_for_checks, find_build_faults
from ..data.coco import CheckedDataset
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
from ..modeling.backbone.timm_pixels import (
    PixelStatistics,
    pixel_statistics_of_network,
    warn_if_statistics_differ,
)
from ..modeling.config_checks import FCOS_ARGUMENTS
from ..modeling.head import HEAD_ARGUMENTS
from ..modeling.levels import LEVELS_ARGUMENTS
from ..modeling.losses.criterion import LOSSES_ARGUMENTS
from ..modeling.postprocessing import POSTPROCESSOR_ARGUMENTS
from .box_coverage import warn_of_boxes_without_location
from .config_rules import DATA_ARGUMENTS
from .lazy_evaluator import check_evaluator
from .lazy_loading import override, run_config_file
from .preflight import (
    RunPlan,
    check_run_datasets,
    find_run_faults,
    parse_datasets,
    register_datasets,
)
from .run_keys import LAZY_KEYS
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
# The names that a run reads from a config file, which may define others.
_USED = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
# The rules of this project's constructors, to report wrong arguments under their config keys.
PART_ARGUMENTS: Mapping[type, Arguments] = {
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
# The rules of the other values that training reads. Keys missing in a config are not checked.
LAZY_RULES: Mapping[str, Rule] = {
    **{f"train.{x}": rule for x, rule in RUN_ARGUMENTS.rules.items() if x != "max_to_keep"},
    "train.drop_classes": DATA_ARGUMENTS.rules["drop_classes"],
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
    collect = Collector()
    descriptions = collect(parse_datasets, (), datasets)
    for path, call in _find_calls(cfg.model):
        if call._target_ is TimmBackbone:
            split = "test" if eval_only else "train"
            collect(_check_pixel_statistics, cfg, f"model.{path}.name", call.name, split)
    values = [] if eval_only else _find_wrong_values(cfg)
    arguments = _find_wrong_arguments(cfg)
    build = [] if arguments else find_build_faults(lambda: _build_model_for_checks(cfg))
    raise_faults([values, arguments, build, collect.faults, find_run_faults(plan, descriptions)])
    registered = register_datasets(descriptions, plan)
    num_classes = OmegaConf.select(cfg, plan.keys.datasets.num_classes)
    if num_classes is not None:
        check_run_datasets(plan, num_classes, registered)
    model = None if eval_only else build_for_checks(lambda: _build_model_for_checks(cfg))
    check_evaluator(cfg, plan, registered, model)
    if not eval_only:
        _warn_of_boxes_without_location(cfg, plan, registered, model)
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
        collect(_check_complete, cfg, _FOR_EVALUATION if eval_only else _FOR_TRAINING)
        collect(_check_calls, cfg)
        collect.check()
    except OmegaConfBaseException as error:
        text = f"The config file {config_file} has an error: {error}"
        raise InputError(text, file=config_file) from error
    if _build_plan(cfg, eval_only, resume).relies_on_checkpoint:
        return _without_pretrained(cfg)
    return cfg


def _warn_of_boxes_without_location(
    cfg: DictConfig,
    plan: RunPlan,
    registered: Mapping[str, CheckedDataset],
    model: nn.Module | None,
) -> None:
    """Measure the boxes without a location, if the mapper is detectron2's or a subclass of it."""
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper")
    target = mapper.get("_target_") if isinstance(mapper, DictConfig) else None
    if not (isinstance(target, type) and issubclass(target, DatasetMapper)):
        return
    contents = {x: registered[x].content for x in plan.train_names if x in registered}
    if contents:
        augmentations = instantiate(mapper.augmentations)
        warn_of_boxes_without_location(model, augmentations, contents, plan.keys)


def _without_pretrained(cfg: DictConfig) -> DictConfig:
    """Return a copy of the config in which networks of timm don't load pretrained weights."""
    cfg = copy.deepcopy(cfg)
    for _, call in _find_calls(cfg.model):
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
    drop_classes = OmegaConf.select(cfg, keys.drop_classes)
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
        drop_classes=list(drop_classes) if is_list(drop_classes) else (),  # checked later
        detections_per_image=OmegaConf.select(cfg, keys.detections_per_image) or 100,
        skip_unreadable_images=bool(
            OmegaConf.select(cfg, "dataloader.train.mapper.skip_unreadable_images")
        ),
        validation_loss=bool(cfg.train.get("validation_loss")),
    )


def _check_complete(cfg: DictConfig, keys: Sequence[str]) -> None:
    """Check that the config has the keys that every run needs, and the keys ``keys``."""
    missing = [key for key in (*_FOR_BOTH, *keys) if OmegaConf.select(cfg, key) is None]
    if missing:
        raise InputError(
            f"The LazyConfig lacks {', '.join(missing)}. See configs/lazy/fcos_R_50_FPN.py for a "
            "complete config.",
            key=missing[0],
        )


def _find_calls(cfg: object, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yield the key and the config of every LazyCall, outer calls before inner ones."""
    if isinstance(cfg, DictConfig):
        if "_target_" in cfg:
            yield path, cfg
        for name in map(str, cfg):
            yield from _find_calls(cfg[name], f"{path}.{name}" if path else name)
    elif isinstance(cfg, ListConfig):
        for index, value in enumerate(cfg):
            yield from _find_calls(value, f"{path}.{index}")


def _find_calls_under(cfg: DictConfig, names: Sequence[str]) -> Iterator[tuple[str, DictConfig]]:
    """Yield the LazyCalls under some top-level names; the config may lack some of them."""
    return (call for name in names if name in cfg for call in _find_calls(cfg[name], name))


def _check_calls(cfg: DictConfig) -> None:
    """Check that every LazyCall has all required arguments and no unknown ones."""
    faults = []
    for path, call in _find_calls_under(cfg, _USED):
        target = locate(call._target_) if isinstance(call._target_, str) else call._target_
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError):  # some callables written in C have no signature
            continue
        arguments = {str(name): None for name in call if name != "_target_"}
        if path == "optimizer.params":
            arguments["model"] = None  # training sets it
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


def _build_model_for_checks(cfg: DictConfig) -> nn.Module:
    """Build the model without pretrained weights."""
    return instantiate(_without_pretrained(cfg).model)


def _find_wrong_arguments(cfg: DictConfig) -> list[InputError]:
    """Find arguments of this project's classes that break the rules of their constructors."""
    faults = []
    for path, call in _find_calls_under(cfg, ("model", "dataloader")):
        arguments = PART_ARGUMENTS.get(call._target_)
        if arguments is not None:
            rules = {f"{path}.{x}": rule for x, rule in arguments.rules.items() if x in call}
            faults += find_faults(rules, lambda key: OmegaConf.select(cfg, key))
    return faults


def _find_wrong_values(cfg: DictConfig) -> list[InputError]:
    """Find values that break ``LAZY_RULES`` or contradict each other."""
    # Required keys that are missing have been reported before.
    rules = {x: rule for x, rule in LAZY_RULES.items() if OmegaConf.select(cfg, x) is not None}
    faults = find_faults(rules, lambda key: OmegaConf.select(cfg, key))
    collect = Collector()
    if not faults:
        collect(RunSettings.from_lazy, cfg)
    return faults + collect.faults


def _check_pixel_statistics(cfg: DictConfig, name_key: str, name: str, split: str) -> None:
    """Warn if the pixel statistics in the config differ from those that timm's weights expect."""
    keys = (f"dataloader.{split}.mapper.image_format", "model.pixel_mean", "model.pixel_std")
    image_format, mean, std = (OmegaConf.select(cfg, key) for key in keys)
    if None not in (image_format, mean, std):
        expected = pixel_statistics_of_network(name)
        configured = PixelStatistics(image_format, tuple(mean), tuple(std))
        warn_if_statistics_differ(name, expected, configured, name_key, keys)
