"""The setup of a run: detectron2's default_setup, and the log file."""

import argparse
import copy
import os

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf

from ..logs import own_handlers
from .run_keys import LAZY_KEYS

__all__ = ["set_up_run"]


def set_up_run(cfg: CfgNode | DictConfig, args: argparse.Namespace) -> None:
    """
    Call detectron2's default_setup, and let our loggers write to OUTPUT_DIR/log.txt too.

    An evaluation writes to OUTPUT_DIR/inference instead, so that it does not replace the
    config.yaml of the training run. A training with a LazyConfig writes the class names, as the
    config of a YAML training has them. Several runs in one process have separate log files.

    Args:
        cfg (CfgNode or DictConfig): A YAML config or a LazyConfig.
        args (Namespace): The parsed command line.
    """
    setup_cfg = copy.deepcopy(cfg)
    is_lazy = isinstance(setup_cfg, DictConfig)
    output_dir = setup_cfg.train.output_dir if is_lazy else setup_cfg.OUTPUT_DIR
    if args.eval_only:
        output_dir = os.path.join(output_dir, "inference")
        if is_lazy:
            setup_cfg.train.output_dir = output_dir
        else:
            setup_cfg.defrost()
            setup_cfg.OUTPUT_DIR = output_dir
    elif is_lazy:
        _set_class_names(setup_cfg)
    with own_handlers():
        default_setup(setup_cfg, args)
        setup_logger(output_dir, comm.get_rank(), name="fcos_d2")


def _set_class_names(cfg: DictConfig) -> None:
    """Set the class names of a LazyConfig to those of the first training set, if it has them."""
    keys = LAZY_KEYS.datasets
    names = OmegaConf.select(cfg, keys.train)
    name = names if isinstance(names, str) else next(iter(names or ()), None)
    classes = MetadataCatalog.get(name).get("thing_classes") if name in MetadataCatalog else None
    if classes:
        OmegaConf.update(cfg, keys.class_names, list(classes), force_add=True)
