"""The losses of FCOS: focal, box and quality loss, and how they are divided."""

from .criterion import FCOSLosses, ObservedBatch
from .quality import QUALITIES, Quality
from .terms import ExtraTerms, LossTerm, LossTerms

__all__ = [
    "QUALITIES",
    "ExtraTerms",
    "FCOSLosses",
    "LossTerm",
    "LossTerms",
    "ObservedBatch",
    "Quality",
]
