"""From a config file and a command line to a config that training can start with."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..config import resolve_num_classes
from ..config_rules import check_config, check_training_config
from ..data.coco_datasets import CocoDataset, dataset_text, parse_dataset, register_coco_dataset
from ..data.split_checks import check_datasets
from ..errors import InputError, listed
from .config_loading import load_config

__all__ = [
    "check_device",
    "check_writable",
    "own_dataset_texts",
    "prepare_config",
    "register_own_datasets",
    "trained_class_names",
]

logger = logging.getLogger(__name__)


def prepare_config(
    config_file: str,
    opts: Sequence[str],
    datasets: Sequence[str] = (),
    *,
    eval_only: bool = False,
    resume: bool = False,
) -> CfgNode:
    """
    Load a config, register its own datasets, fill in what only they can tell, and check it all.

    Args:
        config_file (str): path of a YAML file.
        opts (list[str]): KEY, VALUE, KEY, VALUE, ...
        datasets (list[str]): NAME=ANNOTATIONS.json:IMAGES/, in addition to FCOS_TRAIN.DATASETS.
        eval_only (bool): DATASETS.TRAIN need not be there.
        resume (bool): go on from the last checkpoint of OUTPUT_DIR, if there is one.

    Returns:
        CfgNode: frozen. FCOS_TRAIN.DATASETS has absolute paths and FCOS_TRAIN.CLASS_NAMES the
        classes, so that the file which training writes down works from everywhere.

    Raises:
        InputError: whatever is wrong with the above.
    """
    cfg = load_config(config_file, opts)
    check_config(cfg)
    check_training_config(cfg)
    check_device(cfg.MODEL.DEVICE)
    resumes = resume and (Path(cfg.OUTPUT_DIR) / "last_checkpoint").is_file()
    if eval_only and not (cfg.MODEL.WEIGHTS or resumes):
        raise InputError(
            "--eval-only evaluates a checkpoint, but MODEL.WEIGHTS is empty. Add to the command: "
            "MODEL.WEIGHTS path/to/model_final.pth (or --resume, where OUTPUT_DIR has one)."
        )
    if eval_only or resumes:
        cfg.MODEL.TIMM.PRETRAINED = False  # the checkpoint has all weights
    test_names = cfg.DATASETS.TEST
    train_names = () if eval_only else cfg.DATASETS.TRAIN
    _check_named(train_names, test_names, eval_only)
    if cfg.TEST.EXPECTED_RESULTS and not test_names:
        raise InputError("TEST.EXPECTED_RESULTS is set, but DATASETS.TEST is empty.")
    texts = own_dataset_texts(cfg, datasets)
    for name in texts.keys() - {*cfg.DATASETS.TRAIN, *test_names}:
        logger.warning("The dataset %r is not used: DATASETS does not name it.", name)
    own = register_own_datasets(texts, {*train_names, *test_names})
    cfg.FCOS_TRAIN.DATASETS = [dataset_text(*parse_dataset(text)) for text in texts.values()]
    cfg.MODEL.FCOS.NUM_CLASSES = num_classes = resolve_num_classes(cfg, eval_only)
    check_datasets(num_classes, train_names, test_names, own)
    for name in {*train_names, *test_names} - own.keys():
        _check_annotations_are_there(name)
    _settle_class_names(cfg, train_names, test_names)
    check_writable(cfg.OUTPUT_DIR)
    cfg.freeze()
    return cfg


def _check_named(train_names: Sequence[str], test_names: Sequence[str], eval_only: bool) -> None:
    if eval_only and not test_names:
        raise InputError("DATASETS.TEST is empty: there is nothing to evaluate on.")
    if not eval_only and not train_names:
        raise InputError(
            "DATASETS.TRAIN is empty. Name a dataset: DATASETS.TRAIN \"('my_train',)\", with "
            "--dataset my_train=ANNOTATIONS.json:IMAGES/ if it is one of yours."
        )


def _check_annotations_are_there(name: str) -> None:
    """Of the datasets that detectron2 registers itself, whether they are there or not."""
    metadata = MetadataCatalog.get(name)
    file = metadata.get("json_file")
    if file and not metadata.get("made_at_first_use") and not Path(file).is_file():
        raise InputError(
            f"The annotation file {Path(file).absolute()} of the dataset {name!r} does not exist. "
            "detectron2 looks for its datasets in the folder that the environment variable "
            "DETECTRON2_DATASETS names, or in ./datasets."
        )


def _settle_class_names(
    cfg: CfgNode, train_names: Sequence[str], test_names: Sequence[str]
) -> None:
    """Training writes the names of its classes down; an evaluation must be of the same ones."""
    if train_names:
        cfg.FCOS_TRAIN.CLASS_NAMES = list(
            MetadataCatalog.get(train_names[0]).get("thing_classes", [])
        )
        return
    trained = trained_class_names(cfg)
    for name in test_names:
        classes = MetadataCatalog.get(name).get("thing_classes")
        if trained and classes is not None and list(classes) != trained:
            raise InputError(
                f"The detector was trained for the classes {listed(trained)} "
                f"(FCOS_TRAIN.CLASS_NAMES), but the test set {name!r} has {listed(classes)}, in "
                "this order. Evaluate on data with the same list of categories."
            )


def trained_class_names(cfg: CfgNode) -> list[str]:
    """What a training has written into its config; empty in one that no training has written."""
    return list(cfg.FCOS_TRAIN.CLASS_NAMES)


def own_dataset_texts(cfg: CfgNode, more: Sequence[str] = ()) -> dict[str, str]:
    """
    The datasets that FCOS_TRAIN.DATASETS describes, by name, and more of them.

    Args:
        cfg (CfgNode): with FCOS_TRAIN.
        more (list[str]): NAME=ANNOTATIONS.json:IMAGES/; a name that is there already is replaced.
    """
    texts = {parse_dataset(text)[0]: text for text in cfg.FCOS_TRAIN.DATASETS}
    flags = {parse_dataset(text)[0]: text for text in dict.fromkeys(more)}
    if len(flags) < len(set(more)):
        raise InputError(f"--dataset gives one name twice: {listed(sorted(set(more)))}.")
    return {**texts, **flags}


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
    return own


def check_device(name: str) -> None:
    """
    Raises:
        InputError: MODEL.DEVICE is none, or not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"MODEL.DEVICE = {name!r}: {error}".splitlines()[0]) from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"MODEL.DEVICE = {name!r} must be cpu, cuda or mps.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"MODEL.DEVICE = {name!r}, but PyTorch finds no such device here.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"MODEL.DEVICE = {name!r}, but PyTorch finds no usable CUDA device here. To use the "
            "CPU, add to the command: MODEL.DEVICE cpu"
        )


def check_writable(folder: str) -> None:
    """
    Make OUTPUT_DIR, as training would, and try it.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"OUTPUT_DIR = {folder!r} cannot be written to: {error}.") from error
