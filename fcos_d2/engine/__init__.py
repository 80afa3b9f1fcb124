"""Training and evaluating with detectron2's machinery, on any device."""

from ..config_loading import load_config
from .evaluators import build_evaluator
from .preparation import prepare_config
from .trainer import Trainer

__all__ = ["Trainer", "build_evaluator", "load_config", "prepare_config"]
