"""Training and evaluation on top of detectron2's engine, on any device."""

from ..config_loading import load_config
from .evaluators import build_evaluator
from .launch import launch_run, prepare_run
from .lazy_config import load_lazy_config, prepare_lazy_config
from .lazy_loading import is_lazy_config
from .lazy_training import evaluate_lazy_config, load_lazy_training
from .resuming import load_for_evaluation
from .run_setup import keep_config_of_refused, set_up_run
from .trainer import Trainer
from .yaml_config import load_prediction_config, prepare_config

__all__ = [
    "Trainer",
    "build_evaluator",
    "evaluate_lazy_config",
    "is_lazy_config",
    "keep_config_of_refused",
    "launch_run",
    "load_config",
    "load_for_evaluation",
    "load_lazy_config",
    "load_lazy_training",
    "load_prediction_config",
    "prepare_config",
    "prepare_lazy_config",
    "prepare_run",
    "set_up_run",
]
