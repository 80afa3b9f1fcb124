"""From a YAML file and a command line to a config that a run can start with."""

import logging
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..config_checks import check_config
from ..config_loading import keys_set_by, load_config
from ..data.coco import dataset_text
from ..errors import Collector, InputError
from ..modeling import resolve_num_classes
from ..modeling.backbone.timm_network import pixels_of_timm
from ..modeling.backbone.timm_pixels import PIXEL_KEYS
from .config_rules import find_faults
from .preflight import (
    YAML_KEYS,
    RunPlan,
    check_device,
    check_run_datasets,
    find_run_faults,
    parse_datasets,
    register_datasets,
)

__all__ = ["load_prediction_config", "prepare_config"]

logger = logging.getLogger(__name__)


def load_prediction_config(config_file: str, opts: Sequence[str]) -> CfgNode:
    """
    Load a config for predictions: the model and the reading of images are checked, and no more.

    Pixels for a network of timm that the config does not describe are filled in. No weights to
    start from are fetched: a checkpoint is to fill the whole model.

    Args:
        config_file, opts: see ``config_loading.load_config``.

    Raises:
        InputError: all that is wrong.
    """
    cfg = load_config(config_file, opts)
    collect = Collector()
    collect(_take_pixels_of_timm, cfg, keys_set_by(config_file, opts))
    collect(check_device, cfg.MODEL.DEVICE)
    check_config(cfg, collect.faults)
    cfg.MODEL.TIMM.PRETRAINED = False
    return cfg


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
    Load a config, check it, register its own datasets, and fill in what only they can tell.

    Args:
        config_file (str): path of a YAML file.
        opts (list[str]): see ``config_loading.load_config``.
        datasets (list[str]): NAME=ANNOTATIONS.json:IMAGES/, in addition to FCOS_TRAIN.DATASETS.
        eval_only (bool): DATASETS.TRAIN need not be there.
        resume (bool): resume from the last checkpoint of OUTPUT_DIR, if there is one.
        processes (int): that share the images of a batch.

    Returns:
        CfgNode: frozen. FCOS_TRAIN.DATASETS has absolute paths and FCOS_TRAIN.CLASS_NAMES the
        classes, so that the file which training writes down works from everywhere.

    Raises:
        InputError: all that is wrong with the config; or else with the data.
    """
    loading: list[InputError] = []
    cfg = load_config(config_file, opts, loading)
    plan = RunPlan(
        YAML_KEYS,
        device=cfg.MODEL.DEVICE,
        weights=cfg.MODEL.WEIGHTS,
        output_dir=cfg.OUTPUT_DIR,
        # With a reference, detectron2 scales the batch.
        batch_size=None if cfg.SOLVER.REFERENCE_WORLD_SIZE else cfg.SOLVER.IMS_PER_BATCH,
        train_names=cfg.DATASETS.TRAIN,
        test_names=cfg.DATASETS.TEST,
        eval_only=eval_only,
        resume=resume,
        processes=processes,
    )
    collect = Collector()
    if not loading:
        collect(_take_pixels_of_timm, cfg, keys_set_by(config_file, opts))
    described = collect(parse_datasets, cfg.FCOS_TRAIN.DATASETS, datasets)
    if plan.relies_on_checkpoint:
        cfg.MODEL.TIMM.PRETRAINED = False
    if not (cfg.DATASETS.TEST if eval_only else cfg.DATASETS.TRAIN):
        collect.faults.append(_no_dataset("TEST" if eval_only else "TRAIN"))
    faults = [*collect.faults, *find_faults(cfg, eval_only), *find_run_faults(plan)]
    wrong = {fault.key for fault in loading}  # keys whose values were not taken
    faults = [*loading, *(fault for fault in faults if fault.key not in wrong)]
    check_config(cfg, faults, build_model=not loading)
    own = register_datasets(described, plan)
    cfg.FCOS_TRAIN.DATASETS = [dataset_text(*parts) for parts in described.values()]
    cfg.MODEL.FCOS.NUM_CLASSES = resolve_num_classes(cfg, eval_only)
    check_run_datasets(plan, cfg.MODEL.FCOS.NUM_CLASSES, own, cfg.FCOS_TRAIN.CLASS_NAMES)
    if not eval_only:
        metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
        cfg.FCOS_TRAIN.CLASS_NAMES = list(metadata.get("thing_classes", []))
    cfg.freeze()
    return cfg


def _no_dataset(split: str) -> InputError:
    name = f"my_{split.lower()}"
    return InputError(
        f"DATASETS.{split} is empty. Name a dataset: DATASETS.{split} \"('{name}',)\", with "
        f"--dataset {name}=ANNOTATIONS.json:IMAGES/ if it is one of yours.",
        key=f"DATASETS.{split}",
    )


def _take_pixels_of_timm(cfg: CfgNode, keys_set: set[str]) -> None:
    """detectron2's defaults are for other networks; what is filled in is written down and said."""
    pixels = None if keys_set & set(PIXEL_KEYS) else pixels_of_timm(cfg)
    if pixels is None:
        return
    cfg.INPUT.FORMAT = pixels.format
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(pixels.mean), list(pixels.std)
    logger.info(
        "The config sets none of %s: they become what timm's weights for the network want:\n%s",
        ", ".join(PIXEL_KEYS),
        pixels.under(PIXEL_KEYS),
    )
