"""
Reading a LazyConfig and overrides, with errors that say which key and why.

A LazyConfig is a Python file: to load it is to run it. Load those of people you trust.
"""

import inspect
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..config_rules import LAZY_RULES, check_value
from ..data.coco.registration import parse_dataset, register_coco_dataset
from ..data.coco.split_checks import DatasetKeys, check_datasets
from ..errors import InputError, nearest
from ..modeling import TimmBackbone
from ..modeling.backbone.timm_pixels import TimmPixels, pixels_of_network, warn_of_other_pixels
from ..output_files import check_writable
from .preparation import (
    check_annotations_are_there,
    check_batch_size,
    check_device,
    has_checkpoint,
    nothing_to_evaluate,
)

__all__ = ["is_lazy_config", "prepare_lazy_config"]

_FOR_BOTH = ("model", "train.device", "train.output_dir", "train.init_checkpoint")
_FOR_TRAINING = (
    "dataloader.train", "optimizer.params", "lr_multiplier", "train.max_iter", "train.amp.enabled",
    "train.ddp", "train.checkpointer", "train.eval_period", "train.log_period",
)  # fmt: skip
_FOR_EVALUATION = ("dataloader.test", "dataloader.evaluator")

_BATCH_KEY = "dataloader.train.total_batch_size"
_DATASET_KEYS = DatasetKeys(
    "model.num_classes", "dataloader.train.dataset.names", "dataloader.test.dataset.names"
)


def is_lazy_config(config_file: str) -> bool:
    """Whether a config file is a LazyConfig, that is, Python."""
    return Path(config_file).suffix == ".py"


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
    Run a config file, override its values, register datasets, and check all that can be checked
    before anything is built.

    Args:
        config_file (str): path of a Python file, with what detectron2's lazyconfig_train_net.py
            wants: ``model``, ``dataloader``, ``optimizer``, ``lr_multiplier`` and ``train``.
        overrides (list[str]): KEY=VALUE, as that tool takes them; +KEY=VALUE for a key that is not
            there yet.
        datasets (list[str]): NAME=ANNOTATIONS.json:IMAGES/, for dataloader.*.dataset.names.
        eval_only (bool): what only a training reads need not be there.
        resume (bool): go on from the last checkpoint of train.output_dir, if there is one.
        processes (int): that share the images of a batch.

    Raises:
        InputError: whatever is wrong with the above.
    """
    cfg = _load(config_file)
    try:
        _override(cfg, overrides)
        _check_complete(cfg, _FOR_EVALUATION if eval_only else _FOR_TRAINING)
        _check_calls(cfg)
        if not eval_only:
            _check_numbers(cfg)
    except OmegaConfBaseException as error:
        raise InputError(f"The config file {config_file}: {error}") from error
    train = cfg.train
    check_device(train.device, "train.device", "train.device=cpu")
    resumes = resume and has_checkpoint(train.output_dir)
    if eval_only and not (train.init_checkpoint or resumes):
        raise nothing_to_evaluate("train.init_checkpoint", "=", "train.output_dir")
    for path, call in _calls(cfg.model):
        if call._target_ is TimmBackbone:
            _compare_pixels(cfg, f"model.{path}.name", call.name, "test" if eval_only else "train")
            if eval_only or resumes:
                call.pretrained = False  # a checkpoint will fill the whole model
    batch_size = OmegaConf.select(cfg, _BATCH_KEY)
    if not eval_only and batch_size is not None:
        check_batch_size(_BATCH_KEY, batch_size, processes)
    _check_lazy_datasets(cfg, datasets, eval_only)
    check_writable(train.output_dir, f"train.output_dir = {train.output_dir!r}")
    return cfg


def _load(config_file: str) -> DictConfig:
    if not Path(config_file).is_file():
        raise InputError(
            f"The config file {Path(config_file).absolute()} does not exist, or is no file. Those "
            "of this project are under configs/, such as configs/lazy/fcos_R_50_FPN.py."
        )
    try:
        return LazyConfig.load(str(config_file))
    except Exception as error:  # the file can do anything
        cause = error.__cause__ if isinstance(error, SyntaxError) and error.__cause__ else error
        # The innermost line of a config file; where the syntax is wrong, there is no such frame.
        lines = [
            f"{frame.filename}, line {frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).parent == Path(config_file).parent
        ]
        where = lines[-1] if lines else config_file
        raise InputError(
            f"The config file {config_file} cannot be run: {where}: {type(cause).__name__}: {cause}"
        ) from error


def _override(cfg: DictConfig, overrides: Sequence[str]) -> None:
    for text in overrides:
        key, equals, _ = text.partition("=")
        if not equals:
            raise InputError(
                f"Overrides of a LazyConfig are KEY=VALUE, such as train.max_iter=100, but got "
                f"{text!r}."
            )
        if not key.startswith("+"):
            _check_key(cfg, key)
        try:
            LazyConfig.apply_overrides(cfg, [text])
        except Exception as error:  # of hydra's parser, where it is installed
            raise InputError(
                f"The override {text!r} of the LazyConfig cannot be applied: {error}"
            ) from error


def _check_key(cfg: DictConfig, key: str) -> None:
    """omegaconf would make a key that was misspelt."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    # Of a call, every argument may be set; _check_calls knows which there are.
    if isinstance(node, DictConfig) and (name in node or "_target_" in node):
        return
    if isinstance(node, ListConfig) and name.isdecimal() and int(name) < len(node):
        return
    known = list(_all_keys(OmegaConf.to_container(cfg, resolve=False)))
    raise InputError(
        f"The LazyConfig has no key {key}. {nearest(key, known)} For a new one write +{key}=..."
    )


def _all_keys(content: Any, prefix: str = "") -> Iterator[str]:
    if not isinstance(content, dict | list):
        return
    names: Iterable[Any] = content if isinstance(content, dict) else range(len(content))
    for name in names:
        yield f"{prefix}{name}"
        yield from _all_keys(content[name], f"{prefix}{name}.")


def _check_complete(cfg: DictConfig, keys: Sequence[str]) -> None:
    missing = [key for key in (*_FOR_BOTH, *keys) if OmegaConf.select(cfg, key) is None]
    if missing:
        raise InputError(
            f"The LazyConfig lacks {', '.join(missing)}. configs/lazy/fcos_R_50_FPN.py has all "
            "that is needed."
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


def _check_calls(cfg: DictConfig) -> None:
    """All arguments must be known to what is called, and none of its own be missing."""
    for path, call in _calls(cfg):
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
            raise InputError(
                f"{path} of the LazyConfig calls {getattr(target, '__name__', target)}: {error}. "
                f"Its arguments are: {known}."
            ) from error


def _check_numbers(cfg: DictConfig) -> None:
    for key in LAZY_RULES:
        value = OmegaConf.select(cfg, key)
        if value is not None:  # what must be there has been found
            check_value(key, value, LAZY_RULES)


def _compare_pixels(cfg: DictConfig, name_key: str, name: str, split: str) -> None:
    """With what timm's weights want, where the config has them as ours have."""
    keys = (f"dataloader.{split}.mapper.image_format", "model.pixel_mean", "model.pixel_std")
    image_format, mean, std = (OmegaConf.select(cfg, key) for key in keys)
    if None not in (image_format, mean, std):
        configured = TimmPixels(image_format, tuple(mean), tuple(std))
        warn_of_other_pixels(name, pixels_of_network(name), configured, name_key, keys)


def _check_lazy_datasets(cfg: DictConfig, datasets: Sequence[str], eval_only: bool) -> None:
    """Where they and the number of classes are written as in our configs, and in detectron2's."""
    own = {parts[0]: parts for parts in map(parse_dataset, datasets)}
    registered = {name: register_coco_dataset(*parts) for name, parts in own.items()}
    train_names, test_names = (
        [names] if isinstance(names, str) else list(names or ())
        for names in (OmegaConf.select(cfg, key) for key in _DATASET_KEYS[1:])
    )
    if eval_only:
        train_names = []
    num_classes = OmegaConf.select(cfg, _DATASET_KEYS.num_classes)
    if num_classes is None:
        return
    check_datasets(num_classes, train_names, test_names, registered, _DATASET_KEYS)
    for name in {*train_names, *test_names} - registered.keys():
        check_annotations_are_there(name)
