"""Loggers and folders of a run."""

import argparse
import copy
import logging
import os

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from ..errors import WithoutInputErrors

__all__ = ["set_up_run"]


def set_up_run(cfg: CfgNode | DictConfig, args: argparse.Namespace) -> None:
    """
    detectron2's default_setup, for our loggers too. In an evaluation it works in another folder:
    it would write this config over the one that the training has left.

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
    default_setup(setup_cfg, args)
    setup_logger(output_dir, comm.get_rank(), name="fcos_d2", configure_stdout=False)
    logging.getLogger("detectron2.engine.train_loop").addFilter(WithoutInputErrors())
