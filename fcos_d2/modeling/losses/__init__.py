"""
The losses of FCOS: class, box and quality loss, and how they are normalized.

- ``focal``: the class loss.
- ``box``: the box loss.
- ``quality``: the targets of the quality branch (center-ness or IoU).
- ``terms``: losses as sums, before they are divided.
- ``criterion``: ``FCOSLosses``, which combines them into the losses by name.
"""

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
