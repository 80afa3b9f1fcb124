"""The setup of a run: detectron2's default_setup, and the log file."""

import argparse
import copy
import os

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from ..logs import own_handlers

__all__ = ["set_up_run"]


def set_up_run(cfg: CfgNode | DictConfig, args: argparse.Namespace) -> None:
    """
    Call detectron2's default_setup, and let our loggers write to OUTPUT_DIR/log.txt too.

    An evaluation writes to OUTPUT_DIR/inference instead, so that it does not replace the
    config.yaml of the training run. Several runs in one process have separate log files.

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
    with own_handlers():
        default_setup(setup_cfg, args)
        setup_logger(output_dir, comm.get_rank(), name="fcos_d2")
