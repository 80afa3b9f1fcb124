"""From a config file and a command line to a config that training can start with."""

import ast
import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from ..config import add_fcos_config, add_train_config, resolve_num_classes
from ..config_rules import CONFIG_RULES, check_config, check_training_config, check_value
from ..data.coco_datasets import CocoDataset, parse_dataset, register_coco_dataset
from ..data.split_checks import check_datasets
from ..errors import InputError, nearest

__all__ = ["load_config", "own_dataset_texts", "prepare_config", "register_own_datasets"]

logger = logging.getLogger(__name__)

# All that yacs raises for a key or a value that does not fit, and YAML and files besides.
_MERGE_ERRORS = (AssertionError, KeyError, ValueError, TypeError, AttributeError, yaml.YAMLError)


def prepare_config(
    config_file: str, opts: Sequence[str], datasets: Sequence[str] = (), eval_only: bool = False
) -> CfgNode:
    """
    Load a config, register its own datasets, fill in what only they can tell, and check it all.

    Args:
        config_file (str): path of a YAML file.
        opts (list[str]): KEY, VALUE, KEY, VALUE, ...
        datasets (list[str]): NAME=ANNOTATIONS.json:IMAGES/, in addition to FCOS_TRAIN.DATASETS.
        eval_only (bool): DATASETS.TRAIN need not be there.

    Returns:
        CfgNode: frozen. FCOS_TRAIN.DATASETS has absolute paths, so that the file which training
        writes down works from everywhere.

    Raises:
        InputError: whatever is wrong with the above.
    """
    cfg = load_config(config_file, opts)
    check_config(cfg)
    check_training_config(cfg)
    _check_device(cfg.MODEL.DEVICE)
    train_names = () if eval_only else cfg.DATASETS.TRAIN
    if not eval_only and not train_names:
        raise InputError(
            "DATASETS.TRAIN is empty. Name a dataset: DATASETS.TRAIN \"('my_train',)\", with "
            "--dataset my_train=ANNOTATIONS.json:IMAGES/ if it is one of yours."
        )
    if eval_only and not cfg.DATASETS.TEST:
        raise InputError("DATASETS.TEST is empty: there is nothing to evaluate on.")
    names = {*train_names, *cfg.DATASETS.TEST}
    texts = own_dataset_texts(cfg, datasets)
    own = register_own_datasets(texts, names)
    cfg.FCOS_TRAIN.DATASETS = [
        own[name].text if name in own else text for name, text in texts.items()
    ]
    cfg.MODEL.FCOS.NUM_CLASSES = num_classes = resolve_num_classes(cfg, eval_only)
    check_datasets(num_classes, train_names, cfg.DATASETS.TEST, own)
    _check_writable(cfg.OUTPUT_DIR)
    cfg.freeze()
    return cfg


def load_config(config_file: str, opts: Sequence[str]) -> CfgNode:
    """
    detectron2's defaults and ours, then the file, then the overrides. Nothing is checked but what
    YACS checks: that keys are known and types fit.

    Raises:
        InputError: no such file, not YAML, an unknown key (with the nearest), a wrong type.
    """
    cfg = get_cfg()
    add_fcos_config(cfg)
    add_train_config(cfg)
    if not Path(config_file).is_file():
        raise InputError(
            f"The config file {config_file} does not exist. Those of this project are under "
            "configs/, such as configs/fcos_R_50_FPN_1x.yaml."
        )
    try:
        # detectron2's default would let the tags of a YAML file run code.
        cfg.merge_from_file(config_file, allow_unsafe=False)
    except (*_MERGE_ERRORS, OSError) as error:
        raise InputError(f"The config file {config_file}: {_explain(error, cfg)}") from error
    if len(opts) % 2:
        raise InputError(
            f"Overrides are pairs KEY VALUE, but {opts[-1]!r} at the end has no value."
        )
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        try:
            cfg.merge_from_list([key, value])
        except _MERGE_ERRORS as error:
            if key in CONFIG_RULES and "Non-existent" not in str(error):
                check_value(key, _literal(value))  # says more than YACS
            raise InputError(f"{key} {value}: {_explain(error, cfg, key)}") from error
    return cfg


def _literal(text: str) -> Any:
    """The Python value that an override stands for, as YACS reads it."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _explain(error: Exception, cfg: CfgNode, key: str | None = None) -> str:
    """What YACS said, with the nearest known key where it knows none."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    if "float'> vs. <class 'int'>" in text:
        text += ". Write it with a point, such as 1.0"
    if "Non-existent" not in text:
        return text or type(error).__name__
    key = key or text.rpartition(":")[2].strip()
    return f"there is no config key {key}. {nearest(key, _all_keys(cfg))}"


def _all_keys(cfg: CfgNode, prefix: str = "") -> Iterable[str]:
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from _all_keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def own_dataset_texts(cfg: CfgNode, more: Iterable[str] = ()) -> dict[str, str]:
    """
    The datasets that FCOS_TRAIN.DATASETS describes, by name, and more of them.

    Args:
        cfg (CfgNode): with FCOS_TRAIN.
        more (list[str]): NAME=ANNOTATIONS.json:IMAGES/; a name that is there already is replaced.
    """
    return {parse_dataset(text)[0]: text for text in (*cfg.FCOS_TRAIN.DATASETS, *more)}


def register_own_datasets(texts: Mapping[str, str], wanted: set[str]) -> dict[str, CocoDataset]:
    """
    Register those datasets that a run wants; a dataset that it does not need may be missing.

    Args:
        texts (dict[str, str]): of :func:`own_dataset_texts`.
        wanted (set[str]): names in DATASETS.

    Returns:
        dict: by name.
    """
    own = {}
    for name, text in texts.items():
        if name in wanted:
            own[name] = register_coco_dataset(*parse_dataset(text))
        else:
            logger.warning("The dataset %r is not used: DATASETS does not name it.", name)
    return own


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"MODEL.DEVICE = {name!r}: {error}".splitlines()[0]) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"MODEL.DEVICE = {name!r}, but PyTorch finds no usable CUDA device here. To use the "
            "CPU, add to the command: MODEL.DEVICE cpu"
        )


def _check_writable(folder: str) -> None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"OUTPUT_DIR = {folder!r} cannot be written to: {error}.") from error
