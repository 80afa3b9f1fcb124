"""Training and evaluating with detectron2's machinery, on any device."""

from .evaluators import build_evaluator
from .trainer import Trainer

__all__ = ["Trainer", "build_evaluator"]
