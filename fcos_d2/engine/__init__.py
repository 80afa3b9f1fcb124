"""Training and evaluating with detectron2's machinery, on any device."""

from .evaluators import build_evaluator
from .preparation import prepare_config
from .trainer import Trainer

__all__ = ["Trainer", "build_evaluator", "prepare_config"]
