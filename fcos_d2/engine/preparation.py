"""From a config file and a command line to a config that training can start with."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..config_loading import keys_set_by, load_config, trained_class_names
from ..config_rules import check_config, check_training_config
from ..data.coco.registration import dataset_text, parse_dataset, register_coco_dataset
from ..data.coco.split_checks import check_datasets
from ..errors import InputError, listed
from ..modeling import resolve_num_classes
from ..modeling.backbone.timm_network import pixels_of_timm
from ..modeling.backbone.timm_pixels import PIXEL_KEYS
from ..output_files import check_writable

__all__ = [
    "check_annotations_are_there",
    "check_batch_size",
    "check_device",
    "has_checkpoint",
    "load_checked_config",
    "nothing_to_evaluate",
    "own_datasets",
    "prepare_config",
    "rely_on_checkpoint",
]

logger = logging.getLogger(__name__)


def prepare_config(
    config_file: str,
    opts: Sequence[str],
    datasets: Sequence[str] = (),
    *,
    eval_only: bool = False,
    resume: bool = False,
    processes: int = 1,
) -> CfgNode:
    """
    Load a config, register its own datasets, fill in what only they can tell, and check it all.

    Args:
        config_file (str): path of a YAML file.
        opts (list[str]): KEY, VALUE, KEY, VALUE, ...
        datasets (list[str]): NAME=ANNOTATIONS.json:IMAGES/, in addition to FCOS_TRAIN.DATASETS.
        eval_only (bool): DATASETS.TRAIN need not be there.
        resume (bool): go on from the last checkpoint of OUTPUT_DIR, if there is one.
        processes (int): that share the images of a batch.

    Returns:
        CfgNode: frozen. FCOS_TRAIN.DATASETS has absolute paths and FCOS_TRAIN.CLASS_NAMES the
        classes, so that the file which training writes down works from everywhere.

    Raises:
        InputError: whatever is wrong with the above.
    """
    cfg = load_checked_config(config_file, opts)
    resumes = resume and has_checkpoint(cfg.OUTPUT_DIR)
    if eval_only and not (cfg.MODEL.WEIGHTS or resumes):
        raise nothing_to_evaluate("MODEL.WEIGHTS", " ", "OUTPUT_DIR")
    if eval_only or resumes:
        rely_on_checkpoint(cfg)
    if not eval_only and not cfg.SOLVER.REFERENCE_WORLD_SIZE:  # or detectron2 scales the batch
        check_batch_size("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH, processes)
    test_names = cfg.DATASETS.TEST
    train_names = () if eval_only else cfg.DATASETS.TRAIN
    _check_named(train_names, test_names, eval_only)
    if cfg.TEST.EXPECTED_RESULTS and len(test_names) != 1:
        raise InputError(
            f"TEST.EXPECTED_RESULTS is set, which is for one dataset, but DATASETS.TEST = "
            f"{tuple(test_names)}."
        )
    described = own_datasets(cfg, datasets)
    for name in described.keys() - {*cfg.DATASETS.TRAIN, *test_names}:
        logger.warning("The dataset %r is not used: DATASETS does not name it.", name)
    wanted = {*train_names, *test_names}  # one that is not needed may be missing
    own = {
        name: register_coco_dataset(*parts) for name, parts in described.items() if name in wanted
    }
    cfg.FCOS_TRAIN.DATASETS = [dataset_text(*parts) for parts in described.values()]
    cfg.MODEL.FCOS.NUM_CLASSES = num_classes = resolve_num_classes(cfg, eval_only)
    check_datasets(num_classes, train_names, test_names, own)
    for name in wanted - own.keys():
        check_annotations_are_there(name)
    _settle_class_names(cfg, train_names, test_names)
    check_writable(cfg.OUTPUT_DIR, f"OUTPUT_DIR = {cfg.OUTPUT_DIR!r}")
    cfg.freeze()
    return cfg


def load_checked_config(config_file: str, opts: Sequence[str]) -> CfgNode:
    """
    A config whose values all keep their rules, for a device that is there. Of datasets and weights
    nothing is known yet. Pixels for a network of timm that the config does not describe are filled
    in.

    Args:
        config_file, opts: see :func:`..config_loading.load_config`.

    Raises:
        InputError: the first thing that is wrong.
    """
    cfg = load_config(config_file, opts)
    check_config(cfg)
    if not keys_set_by(config_file, opts) & set(PIXEL_KEYS):
        _take_pixels_of_timm(cfg)
    check_training_config(cfg)
    check_device(cfg.MODEL.DEVICE)
    return cfg


def _take_pixels_of_timm(cfg: CfgNode) -> None:
    """detectron2's defaults are for other networks; what is filled in is written down and said."""
    pixels = pixels_of_timm(cfg)
    if pixels is None:
        return
    cfg.INPUT.FORMAT = pixels.format
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(pixels.mean), list(pixels.std)
    logger.info(
        "The config sets none of %s: they become what timm's weights for the network want:\n%s",
        ", ".join(PIXEL_KEYS),
        pixels.under(PIXEL_KEYS),
    )


def has_checkpoint(output_dir: str) -> bool:
    """Whether a training has left one that --resume goes on from."""
    return (Path(output_dir) / "last_checkpoint").is_file()


def nothing_to_evaluate(weights_key: str, equals: str, folder_key: str) -> InputError:
    """
    The error of an evaluation without weights.

    Args:
        weights_key, folder_key (str): of the config.
        equals (str): what stands between key and value on the command line.
    """
    return InputError(
        f"--eval-only evaluates a checkpoint, but {weights_key} is empty. Add to the command: "
        f"{weights_key}{equals}path/to/model_final.pth (or --resume, where {folder_key} has one)."
    )


def rely_on_checkpoint(cfg: CfgNode) -> None:
    """Fetch no weights to start from: a checkpoint will fill the whole model."""
    cfg.MODEL.TIMM.PRETRAINED = False


def _check_named(train_names: Sequence[str], test_names: Sequence[str], eval_only: bool) -> None:
    if eval_only and not test_names:
        raise InputError("DATASETS.TEST is empty: there is nothing to evaluate on.")
    if not eval_only and not train_names:
        raise InputError(
            "DATASETS.TRAIN is empty. Name a dataset: DATASETS.TRAIN \"('my_train',)\", with "
            "--dataset my_train=ANNOTATIONS.json:IMAGES/ if it is one of yours."
        )


def check_annotations_are_there(name: str) -> None:
    """
    Of the datasets that detectron2 registers itself, whether they are there or not.

    Raises:
        InputError: the annotation file does not exist.
    """
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


def own_datasets(cfg: CfgNode, more: Sequence[str] = ()) -> dict[str, tuple[str, Path, Path]]:
    """
    The datasets that FCOS_TRAIN.DATASETS describes, and more of them.

    Args:
        cfg (CfgNode): with FCOS_TRAIN.
        more (list[str]): NAME=ANNOTATIONS.json:IMAGES/; a name that is there already is replaced.

    Returns:
        dict: by name; see :func:`..data.coco.registration.parse_dataset`.
    """
    more = list(dict.fromkeys(more))
    flags = {parts[0]: parts for parts in map(parse_dataset, more)}
    if len(flags) < len(more):
        raise InputError(f"--dataset gives one name twice: {listed(sorted(more))}.")
    return {parts[0]: parts for parts in map(parse_dataset, cfg.FCOS_TRAIN.DATASETS)} | flags


def check_batch_size(key: str, batch_size: int, processes: int) -> None:
    """
    Raises:
        InputError: the images of a batch cannot be shared evenly.
    """
    if batch_size % processes:
        raise InputError(f"{key} = {batch_size} cannot be shared evenly by {processes} processes.")


def check_device(name: str, key: str = "MODEL.DEVICE", to_cpu: str = "MODEL.DEVICE cpu") -> None:
    """
    Args:
        name (str): such as "cpu" or "cuda".
        key (str): of the config, that the name comes from.
        to_cpu (str): the override that chooses the CPU.

    Raises:
        InputError: the device is none, or not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"{key} = {name!r}: {error}".splitlines()[0]) from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"{key} = {name!r} must be cpu, cuda or mps.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"{key} = {name!r}, but PyTorch finds no such device here.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"{key} = {name!r}, but PyTorch finds no usable CUDA device here. To use the "
            f"CPU, add to the command: {to_cpu}"
        )
