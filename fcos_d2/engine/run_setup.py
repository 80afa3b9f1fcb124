"""The setup of a run: detectron2's default_setup, and the log file."""

import argparse
import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf

from ..atomic_write import replacing
from ..logs import own_handlers
from .run_keys import LAZY_KEYS

__all__ = ["keep_config_of_refused", "set_up_run"]


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


@contextmanager
def keep_config_of_refused(cfg: CfgNode | DictConfig, args: argparse.Namespace) -> Iterator[None]:
    """
    Put the config.yaml of a training back if resuming it fails.

    The block calls ``set_up_run``, which replaces the file, and loads the checkpoint, which may be
    refused. The file must describe the run whose checkpoints are next to it.

    Args:
        cfg (CfgNode or DictConfig): A YAML config or a LazyConfig.
        args (Namespace): The parsed command line.
    """
    output_dir = cfg.train.output_dir if isinstance(cfg, DictConfig) else cfg.OUTPUT_DIR
    file = Path(output_dir) / "config.yaml"
    is_at_risk = args.resume and not args.eval_only and comm.is_main_process() and file.is_file()
    before = file.read_bytes() if is_at_risk else None
    try:
        yield
    except BaseException:
        if before is not None:
            with replacing(file) as temporary:
                temporary.write_bytes(before)
        raise


def _set_class_names(cfg: DictConfig) -> None:
    """Set the class names of a LazyConfig to those of the first training set, if it has them."""
    keys = LAZY_KEYS.datasets
    names = OmegaConf.select(cfg, keys.train)
    name = names if isinstance(names, str) else next(iter(names or ()), None)
    classes = MetadataCatalog.get(name).get("thing_classes") if name in MetadataCatalog else None
    if classes:
        OmegaConf.update(cfg, keys.class_names, list(classes), force_add=True)
