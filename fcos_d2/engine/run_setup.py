"""detectron2's default_setup for a run, and which of its errors go to the log file alone."""

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
    Call detectron2's default_setup, and let our loggers write to OUTPUT_DIR/log.txt too. An
    evaluation does so in OUTPUT_DIR/inference: it would replace the config.yaml of the training.

    Several runs in one process each have their own log.

    Args:
        cfg (CfgNode or DictConfig): of a YAML file, or a LazyConfig.
        args: of the command line.
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
